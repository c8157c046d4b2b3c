"""All sensors of Linux at once, with a private bus and X server for a desktop; and what it costs to read them."""

import asyncio
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from legion_client.machine import sensors as sensors_module
from legion_client.machine import sources_macos, sources_other, sources_windows
from legion_client.machine.bus import Bus
from legion_client.machine.card_power import Lowered, Note
from legion_client.machine.games_linux import GameMode
from legion_client.machine.gpu import Gpus
from legion_client.machine.network_linux import MeteredConnection
from legion_client.machine.readings import GpuReading, Readings
from legion_client.machine.sensing import FIRST_RETRY_S, Pace
from legion_client.machine.sensors import TICK_S, Sensors, either, open_sensors
from legion_client.machine.volume import MonthlyVolume
from legion_client.paths import Home
from tests.client.machine.fake_nvml import FakeNvml
from tests.client.machine.fake_service import SILENCE, FakeService, Refusal, Values
from tests.client.machine.private_desktop import MessageBus, Screen

NETWORK, GAME = "org.freedesktop.NetworkManager", "com.feralinteractive.GameMode"
MUTTER = "org.gnome.Mutter.IdleMonitor"
Serve = Callable[..., FakeService]


@pytest.fixture
def volume(tmp_path: Path) -> MonthlyVolume:
    return MonthlyVolume(tmp_path / "volume.json")


def surroundings(bus: MessageBus, screen: Screen | None = None) -> dict[str, str]:
    buses = {"DBUS_SESSION_BUS_ADDRESS": bus.address, "DBUS_SYSTEM_BUS_ADDRESS": bus.address}
    return buses | (screen.environment if screen else {})


@pytest.mark.parametrize(("value", "metered"), [(0, None), (1, True), (2, False), (3, True), (4, False), (9, None)])
async def test_metered_as_network_manager_knows_or_guesses(
    message_bus: MessageBus, serve: Serve, value: int, metered: bool | None
) -> None:
    bus = Bus(lambda: message_bus.socket)
    sensor = MeteredConnection(bus)
    assert await sensor.read() is None
    serve(NETWORK).property(NETWORK, "Metered", "u", value)
    assert await sensor.read() is metered
    await bus.close()


async def test_game_mode_counts_games(message_bus: MessageBus, serve: Serve) -> None:
    bus = Bus(lambda: message_bus.socket)
    sensor = GameMode(bus)
    assert await sensor.read() is None
    service = serve(GAME).property(GAME, "ClientCount", "i", 0)
    assert await sensor.read() is False
    service.property(GAME, "ClientCount", "i", 2)
    assert await sensor.read() is True
    service.stop()
    assert await sensor.read() is None
    await bus.close()


async def test_everything_is_gathered(
    message_bus: MessageBus, serve: Serve, screen: Screen, volume: MonthlyVolume, tmp_path: Path
) -> None:
    serve(MUTTER).method("GetIdletime", Values("t", (90_000,)))
    serve(NETWORK).property(NETWORK, "Metered", "u", 1)
    serve(GAME).property(GAME, "ClientCount", "i", 1)
    volume.add(sent_bytes=3, received_bytes=4)
    async with open_sensors(tmp_path, volume, environment=surroundings(message_bus, screen)) as sensors:
        found = await until(sensors, lambda now: now.idle_s is not None and now.free_disk_bytes is not None)
    assert (found.idle_s, found.metered, found.game, found.month_bytes) == (90.0, True, True, 7)
    assert found.programs
    assert None not in (found.memory_bytes, found.memory_of_others_bytes, found.disk_bytes, found.physical_cores)
    assert MonthlyVolume(tmp_path / "volume.json").read() == 7


async def test_computer_that_tells_nothing_stops_nobody(volume: MonthlyVolume, tmp_path: Path) -> None:
    nowhere = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path / 'none'}"}
    async with open_sensors(tmp_path, volume, environment=nowhere) as sensors:
        found = await until(sensors, lambda now: now.free_disk_bytes is not None)
    assert (found.idle_s, found.metered, found.game, found.full_screen) == (None, None, None, None)


async def test_services_that_hang_or_refuse_delay_nobody_and_are_asked_rarely(
    message_bus: MessageBus, serve: Serve, volume: MonthlyVolume, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    mutter = serve(MUTTER).method("GetIdletime", Values("t", (1000,)))
    network = serve(NETWORK).answer_property(NETWORK, "Metered", SILENCE)
    game = serve(GAME).answer_property(GAME, "ClientCount", Refusal("org.freedesktop.DBus.Error.AccessDenied"))
    environment = surroundings(message_bus)
    with caplog.at_level(logging.WARNING):
        async with open_sensors(tmp_path, volume, environment=environment, clock=lambda: now) as sensors:
            began = time.monotonic()
            found = await sensors.read()
            assert time.monotonic() - began < 5  # some seconds of this loaded computer, not the 25 s of D-Bus
            assert found.metered is found.game is None
            await until(sensors, lambda found: found.idle_s == 1.0 and "sensor=metered" in caplog.text)
            for _ in range(3):
                now += TICK_S
                await sensors.read()
            assert (len(network.asked), len(game.asked)) == (1, 1)
            assert len(mutter.asked) == 4
            network.property(NETWORK, "Metered", "u", 2)
            now += FIRST_RETRY_S
            await until(sensors, lambda found: found.metered is False)
    assert caplog.text.count("sensor=metered") == 1
    assert caplog.text.count("sensor=game") == 1


async def test_desktop_that_restarts_is_found_again(
    message_bus: MessageBus, serve: Serve, volume: MonthlyVolume, tmp_path: Path
) -> None:
    now = 0.0
    serve(MUTTER).method("GetIdletime", Values("t", (1000,)))
    async with open_sensors(tmp_path, volume, environment=surroundings(message_bus), clock=lambda: now) as sensors:
        await until(sensors, lambda found: found.idle_s == 1.0)
        message_bus.kill()
        now += TICK_S
        await until(sensors, lambda found: found.idle_s is None)
        message_bus.start()
        serve(MUTTER).method("GetIdletime", Values("t", (2000,)))
        now += FIRST_RETRY_S
        await until(sensors, lambda found: found.idle_s == 2.0)


async def test_system_that_is_hardly_known_gives_what_every_system_tells(volume: MonthlyVolume, tmp_path: Path) -> None:
    sources = sources_other.open_sources({}, time.monotonic)
    async with open_sensors(tmp_path, volume, sources=sources) as sensors:
        found = await until(sensors, lambda now: now.free_disk_bytes is not None and bool(now.programs))
    assert (found.idle_s, found.full_screen, found.cpu_celsius) == (None, None, None)


def test_sources_of_other_systems_can_be_imported_here() -> None:
    """Their libraries are opened when they are used, not before."""
    with pytest.raises(NotImplementedError, match="Windows only"):
        sources_windows.open_sources({}, time.monotonic)
    with pytest.raises(OSError, match="ApplicationServices"):
        sources_macos.open_sources({}, time.monotonic)


async def until(sensors: Sensors, holds: Callable[[Readings], bool]) -> Readings:
    """Readings in which that holds; each look lets slow sources go on."""
    async with asyncio.timeout(30):
        while not holds(found := await sensors.read()):
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.02)
        return found


async def test_cards_whose_driver_takes_its_time_are_not_gone(
    volume: MonthlyVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, now = threading.Event(), 0.0
    answers.set()

    class Driver:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def read(self) -> Gpus:
            answers.wait()
            return Gpus((GpuReading(1, "RTX 4090", celsius=70.0, load=0.9, memory_bytes=24 * 2**30),))

    monkeypatch.setattr(sensors_module, "NvidiaGpus", Driver)
    monkeypatch.setattr(sensors_module, "GPU", Pace(TICK_S, limit_s=0.3))
    sources = sources_other.open_sources({}, time.monotonic)
    async with open_sensors(tmp_path, volume, sources=sources, clock=lambda: now) as sensors:
        await until(sensors, lambda found: bool(found.gpus))
        answers.clear()
        now += TICK_S
        found = await until(sensors, lambda found: found.gpu_problem is not None)
        assert found.gpus == (GpuReading(1, "RTX 4090", memory_bytes=24 * 2**30),)
        answers.set()
        now += FIRST_RETRY_S
        found = await until(sensors, lambda found: found.gpu_problem is None)
        assert found.gpus[0].celsius == 70.0


async def test_a_driver_that_never_answers_is_said_and_holds_up_nobody(
    volume: MonthlyVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    class Driver:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def read(self) -> Gpus:
            over.wait()
            return Gpus()

    monkeypatch.setattr(sensors_module, "NvidiaGpus", Driver)
    monkeypatch.setattr(sensors_module, "GPU", Pace(TICK_S, limit_s=0.3))
    sources = sources_other.open_sources({}, time.monotonic)
    async with open_sensors(tmp_path, volume, sources=sources) as sensors:
        found = await until(sensors, lambda found: found.gpu_problem is not None)
        assert (found.gpus, found.gpu_problem) == ((), sensors_module.SLOW_DRIVER)
    assert await sensors_module.cards_once() == Gpus(problem=sensors_module.SLOW_DRIVER)
    over.set()


async def test_a_power_limit_that_an_engine_left_lowered_is_put_back(
    volume: MonthlyVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml, note = FakeNvml.with_cards(tmp_path / "driver.json", "GPU-1"), Home(tmp_path).power_note
    nvml.set_by_others("GPU-1", 120_000)
    Note(note, nvml).write(Lowered(card="GPU-1", before_mw=200_000, ours_mw=120_000))
    monkeypatch.setattr(sensors_module, "Note", functools.partial(Note, nvml=nvml))
    sources = sources_other.open_sources({}, time.monotonic)
    async with open_sensors(tmp_path, volume, sources=sources) as sensors:
        await until(sensors, lambda _: not note.exists())
    assert nvml.limits == {"GPU-1": 200_000}


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [(None, None, None), (None, False, False), (True, None, True), (False, True, True), (False, False, False)],
)
def test_two_that_tell_of_the_same(one: bool | None, other: bool | None, both: bool | None) -> None:
    assert either(one, other) is both


def test_sensors_load_neither_torch_nor_grpc_nor_qt() -> None:
    script = "import sys, legion_client.machine.sensors; print(sorted({'torch', 'grpc', 'PySide6'} & set(sys.modules)))"
    with os.popen(f'"{sys.executable}" -c "{script}"') as answer:
        assert answer.read().strip() == "[]"
