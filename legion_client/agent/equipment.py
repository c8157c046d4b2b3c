"""The processor and the cards of this computer, as far as they are known by now, for whoever shows them."""

import asyncio
from collections.abc import Callable, Sequence

from legion_client.control.messages import DeviceNow
from legion_client.machine.hardware import Computing, Processor, devices, processor
from legion_client.machine.readings import GpuReading
from legion_client.machine.reasons import Active
from legion_client.machine.sensors import cards_once
from legion_client.settings import Settings


class Equipment:
    """`on_change`: what there is has changed; not what it does."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._processor: Processor | None = None
        self._cards: tuple[GpuReading, ...] | None = None

    async def look(self, *, cards: bool) -> None:
        """Once. `cards`: at them too, because no sensor does."""
        self._processor = await asyncio.to_thread(processor)
        if cards:
            self._cards = (await cards_once()).cards
        self._on_change()

    def see(self, cards: tuple[GpuReading, ...]) -> None:
        """What the sensors have read."""
        before, self._cards = self._cards, cards
        if before is None or [_lasting(card) for card in before] != [_lasting(card) for card in cards]:
            self._on_change()

    def now(self, reasons: Sequence[Active], settings: Settings, engine: Computing | None) -> tuple[DeviceNow, ...]:
        """Empty until all has been looked at; only what an engine computes on is known at once."""
        if self._processor is None or self._cards is None:
            return devices(None, (), reasons, settings, engine)
        return devices(self._processor, self._cards, reasons, settings, engine)


def _lasting(card: GpuReading) -> tuple[object, ...]:
    return card.kind, card.index, card.name, card.memory_bytes, card.lost
