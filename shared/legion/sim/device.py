"""How long computing takes: a model of a device, and the engine that waits as long.

A unit's forward takes 2 FLOP a parameter and token, its backward 4 (Kaplan et al., arXiv 2001.08361, 2.1), at a fixed
rate. Attention's own products, optimizer steps, codecs and memory traffic take no time: they are below a tenth for
models whose width is above their context, and nothing here claims more.
"""

from dataclasses import dataclass
from typing import Any, Final

from legion.ids import UnitId
from legion.sim.clock import Actor
from legion.zero.engine import Zero3

FORWARD_FLOP: Final = 2.0  # a parameter and token
BACKWARD_FLOP: Final = 4.0


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """What training reaches of a device, not what its data sheet promises."""

    name: str
    flop_s: float

    def faster(self, factor: float) -> "DeviceModel":
        return DeviceModel(self.name, self.flop_s * factor)


# 40 % of the dense bf16 rate with fp32 sums for the GPUs; for the CPU what torch reaches on two cores in fp32.
DEVICES: Final = {
    device.name: device for device in (DeviceModel("4090", 66e12), DeviceModel("3060", 10e12), DeviceModel("cpu", 50e9))
}


class PacedZero3(Zero3):
    """The engine, on a device that needs time. A unit's time passes when its weights are here, before it is computed.

    So what was fetched ahead travels meanwhile, and gradients leave after the time of their unit.
    """

    def pace(self, device: DeviceModel, actor: Actor[Any], *, micro_batch_tokens: int, scale: float = 1.0) -> None:
        """Before the first step. `scale`: of the model's parameters, to stand for a larger one."""
        self._actor = actor
        self._token_s = scale * micro_batch_tokens / device.flop_s
        self._forwarded: set[UnitId] = set()  # sites whose time has passed in this micro-batch
        self._returned: set[UnitId] = set()
        self.computed_s = 0.0

    def enter_forward(self, site: UnitId) -> None:
        super().enter_forward(site)
        if site not in self._forwarded:  # a site of several modules is entered with each
            self._forwarded.add(site)
            self._compute(FORWARD_FLOP, site)

    def leave_forward(self, site: UnitId) -> None:
        super().leave_forward(site)
        if site == len(self._units) - 1:
            self._forwarded.clear()
            self._returned.clear()

    def enter_backward(self, site: UnitId) -> None:
        super().enter_backward(site)
        if site not in self._returned:  # and has a gradient for each output
            self._returned.add(site)
            self._compute(BACKWARD_FLOP, site)

    def _compute(self, flop: float, site: UnitId) -> None:
        if self._units[site].flat.only_looks_up:
            return
        multiplied = sum(self._units[unit].flat.unit.numel for unit in self._needs[site])
        seconds = flop * multiplied * self._token_s
        self.computed_s += seconds
        self._actor.spend(seconds)
