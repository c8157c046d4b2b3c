"""Idle time of four services, the first that knows; each may be absent, wrong, silent or gone for a while."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_client.machine.bus import Bus
from legion_client.machine.idle_linux import (
    LOOK_AGAIN_S,
    FirstThatKnows,
    LogindIdle,
    MutterIdle,
    OfTheSeat,
    ScreenSaverIdle,
    Unit,
    X11Idle,
    hinted_idle_s,
)
from legion_client.machine.sensing import Sensor
from legion_client.machine.x11 import Display
from tests.client.machine.fake_service import SILENCE, FakeService, Refusal, Values
from tests.client.machine.private_desktop import MessageBus

MUTTER, SCREEN_SAVER = "org.gnome.Mutter.IdleMonitor", "org.freedesktop.ScreenSaver"
LOGIND, MANAGER = "org.freedesktop.login1", "org.freedesktop.login1.Manager"
SESSION, SEAT = "org.freedesktop.login1.Session", "org.freedesktop.login1.Seat"
PLACE = "/org/freedesktop/login1"
Serve = Callable[..., FakeService]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_mutter_counts_milliseconds(message_bus: MessageBus, serve: Serve) -> None:
    bus = Bus(lambda: message_bus.socket)
    idle = MutterIdle(bus)
    assert await idle.read() is None
    serve(MUTTER).method("GetIdletime", Values("t", (184_500,)))
    assert await idle.read() == 184.5
    await bus.close()


async def read_in_turn(
    idle: ScreenSaverIdle, clock: Clock, service: FakeService, values: Sequence[int]
) -> list[float | None]:
    found = []
    for value in values:
        service.method("GetSessionIdleTime", Values("u", (value,)))
        found.append(await idle.read())
        clock.now += 2
    return found


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([4000, 6000, 8001], [None, 6.0, 8.001]),  # KDE on X11
        ([0, 0, 0, 0], [None] * 4),  # KDE on Wayland: no answer, not a user who never pauses
        ([1, 3, 5, 7, 9, 11, 13, 0], [None, None, None, None, None, 11.0, 13.0, 0.0]),  # seconds
    ],
)
async def test_screen_saver_is_believed_once_its_unit_is_known(
    message_bus: MessageBus, serve: Serve, values: list[int], found: list[float | None]
) -> None:
    bus, clock = Bus(lambda: message_bus.socket), Clock()
    idle = ScreenSaverIdle(bus, clock)
    assert await read_in_turn(idle, clock, serve(SCREEN_SAVER), values) == found
    await bus.close()


@given(st.lists(st.floats(0.02, 1.4), min_size=10, max_size=400))
def test_milliseconds_of_a_busy_user_never_pass_for_seconds(pauses: list[float]) -> None:
    """Touches at most 1.4 s apart, a reading every 2 s: whatever unit is believed in, nobody seems to be away."""
    touches = list(itertools.accumulate(pauses))
    unit = Unit()
    for tick in range(int(touches[-1] // 2)):
        now = 2.0 * tick
        last = max((touch for touch in touches if touch <= now), default=0.0)
        value = int((now - last) * 1000)
        scale_s = unit.observe(now, value)
        assert scale_s is None or value * scale_s <= 2.0


@given(st.lists(st.floats(0.1, 30.0), min_size=1, max_size=50), st.sampled_from([1, 1000]))
def test_a_unit_once_known_is_the_true_one(pauses: list[float], a_second: int) -> None:
    touches = [0.0, *itertools.accumulate(pauses)]
    unit = Unit()
    for tick in range(1, int(touches[-1] // 2) + 20):
        now = 2.0 * tick
        idle_s = now - max(touch for touch in touches if touch <= now)
        scale_s = unit.observe(now, int(idle_s * a_second))
        assert scale_s in (None, 1 / a_second)
    assert scale_s == 1 / a_second


async def test_logind_counts_since_its_hint(message_bus: MessageBus, serve: Serve) -> None:
    bus = Bus(lambda: message_bus.socket)
    idle = LogindIdle(bus, lambda: 1000.0)
    assert await idle.read() is None
    logind = serve(LOGIND).property(MANAGER, "IdleHint", "b", True)
    assert await idle.read() is None  # another session manager, without the second property
    logind.property(MANAGER, "IdleSinceHintMonotonic", "t", 400_000_000)
    assert await idle.read() == 600.0
    logind.property(MANAGER, "IdleHint", "b", False)
    assert await idle.read() == 0.0
    await bus.close()


@pytest.mark.parametrize(
    ("idle", "since_us", "idle_s"),
    [
        (True, 0, 1000.0),  # nobody is logged in
        (False, 0, None),  # KDE never gives a hint
        (True, 2_000_000_000, 0.0),  # the hint is newer than our clock
    ],
)
def test_what_logind_means(idle: bool, since_us: int, idle_s: float | None) -> None:
    assert hinted_idle_s(idle, since_us, 1000.0) == idle_s


def chain(bus: Bus, clock: Clock) -> FirstThatKnows:
    sources: list[tuple[str, Sensor[float]]] = [
        ("Mutter", MutterIdle(bus)),
        ("logind", LogindIdle(bus, clock)),
    ]
    return FirstThatKnows(sources, clock)


def logind_idle_for_100_s(serve: Serve) -> FakeService:
    return (
        serve(LOGIND)
        .property(MANAGER, "IdleHint", "b", True)
        .property(MANAGER, "IdleSinceHintMonotonic", "t", 900_000_000)
    )


async def test_first_that_knows_is_kept_and_a_better_one_is_found_later(message_bus: MessageBus, serve: Serve) -> None:
    bus, clock = Bus(lambda: message_bus.socket), Clock()
    idle = chain(bus, clock)
    assert await idle.read() is None
    logind_idle_for_100_s(serve)
    assert await idle.read() == 100.0
    mutter = serve(MUTTER).method("GetIdletime", Values("t", (5000,)))
    assert await idle.read() == 100.0
    assert mutter.asked == []
    clock.now += LOOK_AGAIN_S
    assert await idle.read() == 5.0
    mutter.stop()
    assert await idle.read() == 160.0
    serve(MUTTER).method("GetIdletime", Values("t", (7000,)))
    clock.now += LOOK_AGAIN_S
    assert await idle.read() == 7.0
    await bus.close()


@pytest.mark.parametrize(
    "answer", [SILENCE, Refusal("org.freedesktop.DBus.Error.AccessDenied"), Values("s", ("soon",)), Values("", ())]
)
async def test_one_that_fails_is_passed_over_and_asked_rarely(
    message_bus: MessageBus, serve: Serve, answer: Values | Refusal | None, caplog: pytest.LogCaptureFixture
) -> None:
    bus, clock = Bus(lambda: message_bus.socket), Clock()
    idle = chain(bus, clock)
    logind_idle_for_100_s(serve)
    mutter = serve(MUTTER).method("GetIdletime", answer)
    with caplog.at_level(logging.INFO):
        for expected in (100.0, 102.0, 104.0):
            assert await idle.read() == expected
            clock.now += 2
        assert len(mutter.asked) == 1
        clock.now += LOOK_AGAIN_S
        assert await idle.read() is not None
        assert len(mutter.asked) == 2
        assert caplog.text.count("cannot be read") == 1
        mutter.method("GetIdletime", Values("t", (1000,)))
        clock.now += 2 * LOOK_AGAIN_S
        assert await idle.read() == 1.0
        assert caplog.text.count("can be read again") == 1
    await bus.close()


async def test_an_x_server_that_hangs_up_leaves_the_next_to_tell(
    message_bus: MessageBus, serve: Serve, tmp_path: Path
) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)  # else the system would tell of a reset connection, not of its end
        writer.close()

    bus, clock = Bus(lambda: message_bus.socket), Clock()
    logind_idle_for_100_s(serve)
    display = Display({"DISPLAY": ":7"}, sockets=tmp_path)
    async with await asyncio.start_unix_server(hang_up, tmp_path / "X7"):
        idle = FirstThatKnows([("X11", X11Idle(display)), ("logind", LogindIdle(bus, clock))], clock)
        assert await idle.read() == 100.0
        clock.now += 2
        assert await idle.read() == 102.0
    await display.close()
    await bus.close()


def two_sessions(serve: Serve, *, ours_in_front: bool = False, kind: str = "user") -> FakeService:
    """Ours and another user's on one seat; each is one object, as logind has them."""
    logind = serve(LOGIND)
    logind.at(f"{PLACE}/session/auto", SESSION, "Active", "b", ours_in_front)
    logind.at(f"{PLACE}/session/auto", SESSION, "Seat", "(so)", ("seat0", f"{PLACE}/seat/seat0"))
    logind.at(f"{PLACE}/seat/seat0", SEAT, "ActiveSession", "(so)", ("c7", f"{PLACE}/session/c7"))
    return logind.at(f"{PLACE}/session/c7", SESSION, "Class", "s", kind)


async def idle_where_ours_says_an_hour(message_bus: MessageBus, serve: Serve) -> float | None:
    session = Bus(lambda: message_bus.socket)
    serve(MUTTER).method("GetIdletime", Values("t", (3_600_000,)))
    found = await OfTheSeat(session, MutterIdle(session)).read()
    await session.close()
    return found


async def test_another_user_in_front_counts_until_that_session_is_known_to_be_idle(
    message_bus: MessageBus, serve: Serve
) -> None:
    logind = two_sessions(serve)
    assert await idle_where_ours_says_an_hour(message_bus, serve) == 0.0  # it gives no hint at all
    logind.at(f"{PLACE}/session/c7", SESSION, "IdleHint", "b", False)
    logind.at(f"{PLACE}/session/c7", SESSION, "IdleSinceHintMonotonic", "t", 1)
    assert await idle_where_ours_says_an_hour(message_bus, serve) == 0.0
    logind.at(f"{PLACE}/session/c7", SESSION, "IdleHint", "b", True)
    since_us = int((time.monotonic() - 5) * 1e6)
    logind.at(f"{PLACE}/session/c7", SESSION, "IdleSinceHintMonotonic", "t", since_us)
    found = await idle_where_ours_says_an_hour(message_bus, serve)
    assert found is not None
    assert 5 <= found < 120


@pytest.mark.parametrize("who", [{"ours_in_front": True}, {"kind": "greeter"}], ids=["ours", "a login screen"])
async def test_our_session_counts_where_no_other_user_is_in_front(
    message_bus: MessageBus, serve: Serve, who: dict[str, Any]
) -> None:
    two_sessions(serve, **who)
    assert await idle_where_ours_says_an_hour(message_bus, serve) == 3600.0


async def test_without_a_session_manager_ours_counts(message_bus: MessageBus, serve: Serve) -> None:
    assert await idle_where_ours_says_an_hour(message_bus, serve) == 3600.0


async def test_a_service_without_a_session_counts_as_before(message_bus: MessageBus, serve: Serve) -> None:
    serve(LOGIND).answer_property(SESSION, "Active", Refusal("org.freedesktop.login1.NoSessionForPID"))
    assert await idle_where_ours_says_an_hour(message_bus, serve) == 3600.0
