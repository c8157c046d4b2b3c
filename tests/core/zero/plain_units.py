"""Small hand-made units, and an exchange whose work finishes when the test says so."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from legion.comm.api import Batches
from legion.ids import Step, UnitId


@dataclass(frozen=True)
class PlainSlot:
    name: str
    shape: tuple[int, ...]
    offset: int
    owners: tuple[tuple[nn.Module, str], ...]

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class PlainUnit:
    name: str
    modules: tuple[nn.Module, ...]
    parameters: Sequence[PlainSlot]
    needs: Sequence[int] = ()

    @property
    def numel(self) -> int:
        return sum(slot.numel for slot in self.parameters)


def unit_of(*modules: nn.Module, needs: Sequence[int] = ()) -> PlainUnit:
    """The modules' parameters, a shared one once with all its owners."""
    owners: dict[int, tuple[nn.Parameter, list[tuple[nn.Module, str]]]] = {}
    for module in modules:
        for child in module.modules():
            for name, parameter in child._parameters.items():
                if parameter is not None:
                    owners.setdefault(id(parameter), (parameter, []))[1].append((child, name))
    slots, offset = [], 0
    for parameter, held in owners.values():
        slots.append(PlainSlot(f"p{offset}", tuple(parameter.shape), offset, tuple(held)))
        offset += parameter.numel()
    return PlainUnit("unit", modules, slots, needs)


class ToldWork:
    """Done when the test says so; counts how often it was waited for."""

    def __init__(self) -> None:
        self.finished = False
        self.waits = 0

    def wait(self) -> None:
        self.waits += 1
        self.finished = True

    def done(self) -> bool:
        return self.finished


@dataclass
class ToldExchange:
    """Records what it is asked; `fetch` writes `fill` when its work is waited for."""

    fill: float = 1.0
    fetched: list[tuple[Step, UnitId]] = field(default_factory=list)
    sent: list[tuple[Step, Batches, UnitId, tuple[Tensor, ...], ToldWork]] = field(default_factory=list)

    def fetch(self, step: Step, unit: UnitId, out: Tensor) -> ToldWork:
        self.fetched.append((step, unit))
        exchange = self

        class Fetch(ToldWork):
            def wait(self) -> None:
                super().wait()
                out.fill_(exchange.fill)

        return Fetch()

    def send_gradient(
        self, step: Step, batches: Batches, unit: UnitId, *gradient: Tensor, codec: str | None = None
    ) -> ToldWork:
        work = ToldWork()
        self.sent.append((step, batches, unit, gradient, work))
        return work
