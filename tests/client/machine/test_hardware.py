"""Each device with its state and reasons: pure."""

from datetime import UTC, datetime
from typing import Any

import pytest

from legion.messages import Device
from legion_client.control.messages import DeviceNow
from legion_client.machine.hardware import Computing, Processor, devices, lasting
from legion_client.machine.readings import GpuReading, Readings
from legion_client.machine.reasons import Active, Reason
from legion_client.settings import Settings
from legion_client.settings.sections import Graphics, Modes
from legion_client.settings.sections import Processor as ProcessorRules

GIB = 2**30
CPU = Processor("Ryzen", 8, 32 * GIB)
CARDS = (GpuReading(0, "RTX 3060", memory_bytes=12 * GIB), GpuReading(2, "RTX 4090", memory_bytes=24 * GIB))
FIGURES: dict[str, str | int] = {
    "gpu": 2, "name": "RTX 4090", "celsius": 91, "resume_celsius": 70, "pace": 60, "problem": "it is too old",
    "minutes": 3, "load": 50, "busy_s": 30, "quiet_s": 60, "program": "blender",
}  # fmt: skip


def found(*reasons: Active, engine: Computing | None = None, settings: Settings | None = None) -> list[DeviceNow]:
    return list(devices(CPU, CARDS, reasons, settings or Settings(), engine))


def active(reason: Reason, gpu: int | None = None) -> Active:
    return Active(reason, gpu, FIGURES)


@pytest.mark.parametrize(
    ("reason", "gpu", "states"),
    [
        (Reason.GPU_LOST, 2, ["ready", "unusable", "ready"]),
        (Reason.GPU_UNUSABLE, 2, ["ready", "unusable", "ready"]),
        (Reason.GPU_UNUSABLE, None, ["unusable", "unusable", "ready"]),
        (Reason.GPU_EXCLUDED, 2, ["ready", "off", "ready"]),
        (Reason.GPU_OFF, None, ["off", "off", "ready"]),
        (Reason.GPU_HOT, 2, ["ready", "waiting", "ready"]),
        (Reason.GPU_IN_USE, None, ["waiting", "waiting", "ready"]),
        (Reason.EXCLUSIVE_GRAPHICS, None, ["waiting", "waiting", "ready"]),
        (Reason.CPU_OFF, None, ["ready", "ready", "off"]),
        (Reason.CPU_BUSY, None, ["ready", "ready", "waiting"]),
        (Reason.CPU_HOT, None, ["ready", "ready", "waiting"]),
        (Reason.GAME, None, ["ready", "ready", "ready"]),
        (Reason.PAUSED, None, ["ready", "ready", "ready"]),
    ],
)
def test_what_stops_a_device_alone_is_said_of_it(reason: Reason, gpu: int | None, states: list[str]) -> None:
    told = found(active(reason, gpu))
    assert [device.state for device in told] == states
    for device in told:
        assert [why.slug for why in device.reasons] == ([] if device.state == "ready" else [reason])


def test_what_slows_a_card_is_said_and_stops_it_not() -> None:
    card = found(active(Reason.GPU_WARM, 2))[1]
    assert (card.state, [why.slug for why in card.reasons]) == ("ready", ["graphics-warm"])


def test_a_fault_is_said_before_what_the_volunteer_can_change() -> None:
    card = found(active(Reason.GPU_HOT, 2), active(Reason.GPU_EXCLUDED, 2), active(Reason.GPU_LOST, 2))[1]
    assert [why.slug for why in card.reasons] == ["graphics-lost", "graphics-excluded", "graphics-hot"]


def test_a_processor_that_shall_not_compute_says_so_while_cards_do() -> None:
    settings = Settings(processor=ProcessorRules(enabled=False))
    assert [why.slug for why in found(settings=settings)[-1].reasons] == ["processor-disabled"]
    assert len(found(active(Reason.CPU_DISABLED), settings=settings)[-1].reasons) == 1


@pytest.mark.parametrize(
    ("kind", "name", "cards", "states"),
    [
        ("cuda", "RTX 4090", "2", ["ready", "computing", "ready"]),
        ("cuda", "RTX 4090", None, ["ready", "computing", "ready"]),
        ("cpu", "Ryzen", "", ["ready", "ready", "computing"]),
        ("cuda", "Radeon", None, ["ready", "ready", "computing", "ready"]),  # of which no driver has told
    ],
)
def test_what_an_engine_computes_on(kind: Any, name: str, cards: str | None, states: list[str]) -> None:
    device = Device(kind=kind, name=name, memory_bytes=GIB)
    assert [one.state for one in found(engine=Computing(device, cards, now=True))] == states
    assert {one.state for one in found(engine=Computing(device, cards, now=False))} == {"ready"}


def test_a_card_without_a_driver_has_the_memory_that_its_engine_tells() -> None:
    apple = GpuReading(0, "Apple GPU", kind="mps")
    engine = Computing(Device(kind="mps", name="Apple M2 GPU", memory_bytes=11 * GIB), "mps", now=True)
    [card, _] = devices(CPU, [apple], [], Settings(), engine)
    assert (card.memory_bytes, card.state) == (11 * GIB, "computing")
    assert devices(CPU, [apple], [], Settings())[0].memory_bytes is None


def test_before_anything_is_known_only_the_engine_tells() -> None:
    engine = Computing(Device(kind="cpu", name="Ryzen", memory_bytes=GIB), "", now=True)
    assert devices(None, (), [], Settings()) == ()
    assert [device.state for device in devices(None, (), [], Settings(), engine)] == ["computing"]


def test_what_lasts_is_known_without_an_agent() -> None:
    settings = Settings(graphics=Graphics(excluded=[2]), modes=Modes(gpu="never", paused=True))
    reasons = lasting(settings, Readings(gpus=CARDS, on_battery=True), datetime(2027, 3, 1, 12, 0, tzinfo=UTC))
    assert [(one.reason, one.gpu) for one in reasons] == [(Reason.GPU_OFF, None), (Reason.GPU_EXCLUDED, 2)]
