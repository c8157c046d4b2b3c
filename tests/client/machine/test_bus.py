"""A real message bus, with services that answer, refuse, keep silent and go away."""

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from jeepney import DBusAddress

from legion.errors import Unavailable
from legion_client.machine.bus import Bus, Signal, session_address, system_address
from tests.client.machine.fake_service import SILENCE, FakeService, Refusal, Values
from tests.client.machine.private_desktop import MessageBus, read_to_end

NAME = "org.example.Kettle"
KETTLE = DBusAddress("/kettle", bus_name=NAME, interface=NAME)
Serve = Callable[..., FakeService]


def bus_at(path: str | None) -> Bus:
    return Bus(lambda: path)


async def test_method_and_property_give_their_values(message_bus: MessageBus, serve: Serve) -> None:
    serve(NAME).method("Pour", Values("us", (3, "cups"))).property(NAME, "Celsius", "d", 99.5)
    bus = bus_at(message_bus.socket)
    assert await bus.call(KETTLE, "Pour") == (3, "cups")
    assert await bus.property(KETTLE, "Celsius") == 99.5
    await bus.close()


@pytest.mark.parametrize("error", ["UnknownMethod", "UnknownObject", "UnknownProperty", "ServiceUnknown"])
async def test_what_is_not_there_is_none(message_bus: MessageBus, serve: Serve, error: str) -> None:
    bus = bus_at(message_bus.socket)
    assert await bus.call(KETTLE, "Pour") is None  # no service of that name
    serve(NAME).method("Pour", Refusal(f"org.freedesktop.DBus.Error.{error}"))
    assert await bus.call(KETTLE, "Pour") is None
    assert await bus.property(KETTLE, "Colour") is None
    await bus.close()


async def test_another_error_names_who_gave_it(message_bus: MessageBus, serve: Serve) -> None:
    serve(NAME).method("Pour", Refusal("org.freedesktop.DBus.Error.AccessDenied"))
    bus = bus_at(message_bus.socket)
    with pytest.raises(Unavailable, match=r"org\.example\.Kettle answered Pour with .*AccessDenied"):
        await bus.call(KETTLE, "Pour")
    await bus.close()


async def test_service_that_hangs_is_given_up_and_the_bus_stays_usable(message_bus: MessageBus, serve: Serve) -> None:
    serve(NAME).method("Pour", SILENCE).method("Boil", Values("b", (True,)))
    bus = bus_at(message_bus.socket)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await bus.call(KETTLE, "Pour")
    assert await bus.call(KETTLE, "Boil") == (True,)
    await bus.close()


async def test_calls_at_the_same_time_get_each_its_own_answer(message_bus: MessageBus, serve: Serve) -> None:
    kettle = serve(NAME)
    for number in range(20):
        kettle.method(f"Say{number}", Values("i", (number,)))
    bus = bus_at(message_bus.socket)
    answers = await asyncio.gather(*(bus.call(KETTLE, f"Say{number}") for number in range(20)))
    assert answers == [(number,) for number in range(20)]
    await bus.close()


async def test_service_that_comes_back_is_found_again(message_bus: MessageBus, serve: Serve) -> None:
    bus = bus_at(message_bus.socket)
    serve(NAME).method("Pour", Values("i", (1,))).stop()
    assert await bus.call(KETTLE, "Pour") is None
    serve(NAME).method("Pour", Values("i", (2,)))
    assert await bus.call(KETTLE, "Pour") == (2,)
    await bus.close()


async def test_bus_that_dies_ends_the_call_and_is_found_again(message_bus: MessageBus, serve: Serve) -> None:
    kettle = serve(NAME).method("Pour", SILENCE)
    bus = bus_at(message_bus.socket)
    waiting = asyncio.create_task(bus.call(KETTLE, "Pour"))
    while not kettle.asked:
        await asyncio.wait({waiting}, timeout=0.01)
    message_bus.kill()
    with pytest.raises(Unavailable, match="bus is gone"):
        await waiting
    assert await bus.call(KETTLE, "Pour") is None  # there is no bus at all
    message_bus.start()
    serve(NAME).method("Pour", Values("i", (2,)))
    assert await bus.call(KETTLE, "Pour") == (2,)
    await bus.close()


async def test_bus_that_never_greets_is_given_up_without_a_leak(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        bus = bus_at(str(tmp_path / "silent"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await bus.call(KETTLE, "Pour")
        accepted, _ = silent.accept()
        await asyncio.to_thread(read_to_end, accepted)
        await bus.close()


async def test_bus_that_hangs_up_while_it_is_greeted_is_unavailable(tmp_path: Path) -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(hang_up, tmp_path / "rude"):
        bus = bus_at(str(tmp_path / "rude"))
        with pytest.raises((Unavailable, ConnectionError)):
            await bus.call(KETTLE, "Pour")
        await bus.close()


async def test_garbage_is_the_end_of_the_bus(
    message_bus: MessageBus, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy in between that goes mad: the next call opens a new connection."""
    serve(NAME).method("Pour", Values("i", (1,)))
    bus = bus_at(message_bus.socket)
    assert await bus.call(KETTLE, "Pour") == (1,)
    link = bus._link
    assert link is not None
    with caplog.at_level(logging.WARNING):
        link._reader.feed_data(b"\xff" * 64)
        await asyncio.wait({link._receiver}, timeout=5)
    assert "lost the message bus" in caplog.text
    assert await bus.call(KETTLE, "Pour") == (1,)
    await bus.close()


async def test_signals_reach_their_queue_until_the_bus_is_gone(message_bus: MessageBus, serve: Serve) -> None:
    kettle = serve(NAME)
    bus = bus_at(message_bus.socket)
    async with bus.signals(Signal(NAME, NAME, "Whistled")) as queue:
        assert queue is not None
        kettle.emit("/kettle", NAME, "Cooled", "i", 1)
        kettle.emit("/kettle", NAME, "Whistled", "i", 2)
        async with asyncio.timeout(5):
            message = await queue.get()
            assert message is not None
            assert message.body == (2,)
            message_bus.kill()
            assert await queue.get() is None
    await bus.close()


async def test_without_a_bus_there_are_no_signals(tmp_path: Path) -> None:
    async with bus_at(None).signals(Signal(NAME, NAME, "Whistled")) as queue:
        assert queue is None
    async with bus_at(str(tmp_path / "nothing")).signals(Signal(NAME, NAME, "Whistled")) as queue:
        assert queue is None


@pytest.mark.parametrize(
    ("environment", "socket_path"),
    [
        ({}, None),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/bus"),
        ({"DBUS_SESSION_BUS_ADDRESS": "unix:path=/a%20b,guid=1", "XDG_RUNTIME_DIR": "/run/user/7"}, "/a b"),
        ({"DBUS_SESSION_BUS_ADDRESS": "unix:abstract=/a"}, "\0/a"),
        ({"DBUS_SESSION_BUS_ADDRESS": "tcp:host=localhost,port=1"}, None),
        ({"DBUS_SESSION_BUS_ADDRESS": "nonsense"}, None),
    ],
)
def test_the_session_bus_is_found(environment: dict[str, str], socket_path: str | None) -> None:
    assert session_address(environment) == socket_path


def test_the_system_bus_is_where_it_always_is_unless_told_otherwise() -> None:
    assert system_address({}) == "/run/dbus/system_bus_socket"
    assert system_address({"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/s"}) == "/s"
