"""Limits of the compute thread and of the card that it computes on.

A card is held to a part of its power by its own limit where that may be set, which is steady and quiet, and by rests
between micro-batches for what the limit does not do. Invariant: the limit is lower only while something is computed.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from legion.train.pace import Pace
from legion_client.engine.protocol import Throttle
from legion_client.machine.card_power import WHOLE, PowerLimit

LOOK_S = 10.0  # at a limit that others may have set: some milliseconds of the driver's each time
END_S = 2.0  # for a driver to put the limit back; what it has not done by then, the agent does


def part_of_time(duty: float, power: float, kept: float) -> float:
    """To compute, where the card itself keeps to a share `kept` of its power, and `power` is what it may use."""
    return duty * min(1.0, power / kept)


class Throttling:
    """Belongs to the event loop, but for `computing` and `holds`, which any thread may call."""

    def __init__(self, pace: Pace, device: torch.device, card: str | None, note: Path | None) -> None:
        """`card`: as NVIDIA's driver names it. `note`: see Prepare."""
        self._pace = pace
        self._device = device
        self._limits = Throttle()
        self._power = CardPower(PowerLimit(card, note)) if note is not None else None

    def begin(self) -> None:
        """Puts back what an engine before this one could not."""
        if self._power is not None:
            self._power.start(asyncio.get_running_loop(), self._keep_pace)

    def obey(self, limits: Throttle) -> None:
        self._limits = limits
        if self._device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(limits.gpu_memory_fraction or 1.0, self._device)
        if self._power is not None:
            self._power.change(share=limits.power)
        self._keep_pace()

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        if self._power is None:
            yield
            return
        self._power.change(computing=True)
        try:
            yield
        finally:
            self._power.change(computing=False)

    def holds(self, held: bool) -> None:
        """What is computed rests for as long as a pause lasts."""
        if self._power is not None:
            self._power.change(held=held)

    async def end(self) -> None:
        if self._power is not None:
            await self._power.end(END_S)

    def _keep_pace(self) -> None:
        limits = self._limits
        kept = WHOLE if self._power is None else self._power.kept
        self._pace.limit(duty=part_of_time(limits.duty, limits.power, kept), threads=limits.threads)


class CardPower:
    """A thread that alone speaks to the driver, which may take its time or never answer: nobody waits for it."""

    def __init__(self, limit: PowerLimit, look_s: float = LOOK_S) -> None:
        self._limit = limit
        self._look_s = look_s
        self._changed = threading.Condition()
        self._share = WHOLE
        self._computing = self._held = self._ending = self._news = False
        self._thread: threading.Thread | None = None
        self.kept = WHOLE  # by the card itself, of its power

    def start(self, loop: asyncio.AbstractEventLoop, on_kept: Callable[[], None]) -> None:
        """`on_kept`: called on the loop after every change of `kept`."""

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(on_kept)

        self._thread = threading.Thread(target=self._work, args=(tell,), name="card power", daemon=True)
        self._thread.start()

    def change(self, *, share: float | None = None, computing: bool | None = None, held: bool | None = None) -> None:
        """What is not told stays as it was."""
        with self._changed:
            self._share = self._share if share is None else share
            self._computing = self._computing if computing is None else computing
            self._held = self._held if held is None else held
            self._tell_thread()

    async def end(self, within_s: float) -> None:
        """The limit is what it was, if the driver answers within that time."""
        with self._changed:
            self._ending = True
            self._tell_thread()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, within_s)

    def _tell_thread(self) -> None:
        self._news = True
        self._changed.notify_all()

    @property
    def _wanted(self) -> float:
        return self._share if self._computing and not self._held and not self._ending else WHOLE

    def _work(self, tell: Callable[[], None]) -> None:
        self._limit.settle()
        ending = False
        while not ending:
            with self._changed:
                self._changed.wait_for(lambda: self._news, self._look_s if self._wanted < WHOLE else None)
                wanted, ending, self._news = self._wanted, self._ending, False
            kept = self._limit.keep_to(wanted)
            if kept != self.kept:
                self.kept = kept
                tell()
        self._limit.settle()
