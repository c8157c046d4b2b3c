"""What this computer could compute on, each part with what stops it alone: known without any engine.

What stops the whole computer, as a game does, is told once and not of each part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psutil

from legion.messages import Device
from legion.train.processor import processor_name
from legion_client.control.messages import DeviceNow, DeviceState, Why
from legion_client.machine.policy import decide
from legion_client.machine.presence import State
from legion_client.machine.probe import physical_cores
from legion_client.machine.readings import GpuReading, Readings, key
from legion_client.machine.reasons import CPU, GPU, Active, Reason, ordered, why
from legion_client.settings import Settings

# Nothing that the volunteer decides lets such a card compute.
FAULTS = frozenset((Reason.GPU_LOST, Reason.GPU_UNUSABLE))
CHOICES = frozenset(
    (Reason.CPU_OFF, Reason.GPU_OFF, Reason.GPU_EXCLUDED, Reason.GPU_DISABLED, Reason.CPU_DISABLED)
)  # fmt: skip
OF_PROCESSOR = frozenset((Reason.CPU_HOT, Reason.CPU_WARM))  # beside those that stop the processor alone


@dataclass(frozen=True, slots=True)
class Processor:
    name: str
    cores: int  # that compute at the same time
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Computing:
    """What an engine has said of its device; `cards`: that it may see, None: all."""

    device: Device
    cards: str | None
    now: bool

    def is_on(self, card: GpuReading) -> bool:
        if self.cards is not None:
            return self.device.kind == card.kind and self.cards == key(card.index, card.kind)
        return (self.device.kind, self.device.name) == (card.kind, card.name)


def processor() -> Processor:
    """Of this computer. May take seconds on macOS."""
    return Processor(processor_name(), physical_cores(), psutil.virtual_memory().total)


def devices(
    processor: Processor | None,
    cards: Sequence[GpuReading],
    reasons: Sequence[Active],
    settings: Settings,
    engine: Computing | None = None,
) -> tuple[DeviceNow, ...]:
    """The cards, then the processor; an engine's card that no driver tells of stands behind the others."""
    ours = next((card for card in cards if engine is not None and engine.is_on(card)), None)
    found = [_card(card, reasons, engine if card is ours else None) for card in cards]
    if engine is not None and ours is None and engine.device.kind != "cpu":
        stops = [one for one in reasons if one.gpu is None and one.rule.stops == GPU]
        found.append(_told(engine.device, _state(stops, engine), stops))
    on_processor = engine if engine is not None and engine.device.kind == "cpu" else None
    if processor is not None:
        found.append(_processor(processor, reasons, settings, on_processor))
    elif on_processor is not None:
        found.append(_told(on_processor.device, _state([], on_processor), []))
    return tuple(found)


def lasting(settings: Settings, readings: Readings, now: datetime) -> list[Active]:
    """The reasons about devices that do not pass by themselves, where no agent decides."""
    decision, _ = decide(settings, State(), readings, now)
    return [one for one in decision.reasons if one.reason in FAULTS | CHOICES]


def _card(card: GpuReading, reasons: Sequence[Active], engine: Computing | None) -> DeviceNow:
    about = [one for one in reasons if one.gpu == card.index or (one.gpu is None and one.rule.stops == GPU)]
    known = engine.device.memory_bytes if engine is not None else None
    return DeviceNow(
        kind=card.kind,
        name=card.name,
        index=card.index,
        memory_bytes=known if card.memory_bytes is None else card.memory_bytes,
        state=_state(about, engine),
        reasons=_told_by(about),
    )


def _processor(
    processor: Processor, reasons: Sequence[Active], settings: Settings, engine: Computing | None
) -> DeviceNow:
    about = [one for one in reasons if one.rule.stops == CPU or one.reason in OF_PROCESSOR]
    if not settings.processor.enabled and Reason.CPU_DISABLED not in {one.reason for one in about}:
        about.append(Active(Reason.CPU_DISABLED))  # a rule of the computer only where nothing else computes
    return DeviceNow(
        kind="cpu",
        name=processor.name,
        cores=processor.cores,
        memory_bytes=processor.memory_bytes,
        state=_state(about, engine),
        reasons=_told_by(about),
    )


def _told(device: Device, state: DeviceState, about: Sequence[Active]) -> DeviceNow:
    return DeviceNow(
        kind=device.kind, name=device.name, memory_bytes=device.memory_bytes, state=state, reasons=_told_by(about)
    )


def _told_by(about: Sequence[Active]) -> tuple[Why, ...]:
    """Faults first, then choices: whoever waits for another reason to pass would only find them."""
    found = sorted(ordered(list(about)), key=lambda one: (one.reason not in FAULTS, one.reason not in CHOICES))
    return tuple(why(one) for one in found)


def _state(about: Sequence[Active], engine: Computing | None) -> DeviceState:
    reasons = {one.reason for one in about}
    if reasons & FAULTS:
        return "unusable"
    if reasons & CHOICES:
        return "off"
    if any(one.rule.stops for one in about):
        return "waiting"
    return "computing" if engine is not None and engine.now else "ready"
