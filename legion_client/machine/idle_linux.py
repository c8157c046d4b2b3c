"""Since when nobody has touched this Linux computer, by the first of four that tells."""

import asyncio
import time
from collections.abc import Sequence

from jeepney import DBusAddress

from legion_client.machine.bus import Bus
from legion_client.machine.sensing import FAILURES, Clock, Patience, Sensor, in_words
from legion_client.machine.x11 import Display

MUTTER = DBusAddress(
    "/org/gnome/Mutter/IdleMonitor/Core",
    bus_name="org.gnome.Mutter.IdleMonitor",
    interface="org.gnome.Mutter.IdleMonitor",
)
SCREEN_SAVER = DBusAddress(
    "/org/freedesktop/ScreenSaver", bus_name="org.freedesktop.ScreenSaver", interface="org.freedesktop.ScreenSaver"
)
LOGIND = DBusAddress(
    "/org/freedesktop/login1", bus_name="org.freedesktop.login1", interface="org.freedesktop.login1.Manager"
)
OUR_SESSION = DBusAddress(
    "/org/freedesktop/login1/session/auto", bus_name=LOGIND.bus_name, interface="org.freedesktop.login1.Session"
)
SEAT_INTERFACE = "org.freedesktop.login1.Seat"
# A desktop may start after us, and then tells more than what answered until now.
LOOK_AGAIN_S = 60.0
ANSWER_S = 1.0


class MutterIdle:
    """GNOME, also under Wayland."""

    def __init__(self, session: Bus) -> None:
        self._session = session

    async def read(self) -> float | None:
        answer = await self._session.call(MUTTER, "GetIdletime")
        return None if answer is None else float(answer[0]) / 1000.0


class ScreenSaverIdle:
    """KDE and others. None until the value was seen to grow by itself, see `Unit`."""

    def __init__(self, session: Bus, clock: Clock = time.monotonic) -> None:
        self._session = session
        self._clock = clock
        self._unit = Unit()

    async def read(self) -> float | None:
        answer = await self._session.call(SCREEN_SAVER, "GetSessionIdleTime")
        if answer is None:
            self._unit = Unit()
            return None
        value = float(answer[0])
        scale_s = self._unit.observe(self._clock(), value)
        return None if scale_s is None else value * scale_s


class Unit:
    """What a count of one means, learned of how fast the count grows: KDE counts milliseconds, light-locker seconds.

    KDE under Wayland always says 0, which must not pass for a user who never pauses: it stays unknown. Only a count of
    milliseconds grows by more than 30 a second. While somebody types, it may for a moment grow like one of seconds,
    which is therefore believed after `STEADY_S` only.
    """

    STEADY_S = 10.0

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._steady_since: float | None = None
        self._scale_s: float | None = None

    def observe(self, now: float, value: float) -> float | None:
        """Seconds that a count of one means; None as long as that is not known."""
        last, self._last = self._last, (now, value)
        if last is None:
            return None
        passed_s, grown = now - last[0], value - last[1]
        if passed_s >= 0.1 and grown > 30 * passed_s:
            self._scale_s = 0.001
        elif self._scale_s is None:
            self._watch(last[0], now, abs(grown - passed_s) <= 1.0 and grown > 0)
        return self._scale_s

    def _watch(self, before: float, now: float, steady: bool) -> None:
        if not steady:
            self._steady_since = None
            return
        self._steady_since = before if self._steady_since is None else self._steady_since
        if now - self._steady_since >= self.STEADY_S:
            self._scale_s = 1.0


class X11Idle:
    """The screen saver extension of our own display. Not under XWayland, which only sees its own windows."""

    def __init__(self, display: Display) -> None:
        self._display = display

    async def read(self) -> float | None:
        return await self._display.idle_s()


class LogindIdle:
    """The session manager's hint. Where nobody is logged in, the computer is idle since it was started."""

    def __init__(self, system: Bus, clock: Clock = time.monotonic) -> None:
        self._system = system
        self._clock = clock

    async def read(self) -> float | None:
        idle = await self._system.property(LOGIND, "IdleHint")
        since_us = await self._system.property(LOGIND, "IdleSinceHintMonotonic")
        if idle is None or since_us is None:
            return None
        return hinted_idle_s(bool(idle), int(since_us), self._clock())


def hinted_idle_s(idle: bool, since_us: int, now_s: float) -> float | None:
    """`since_us` counts as the system's monotonic clock does; 0 means that no session ever gave a hint.

    KDE never gives one, and logind then says "not idle since 0", which is no answer.
    """
    if idle:
        return max(0.0, now_s - since_us / 1e6)
    return 0.0 if since_us else None


class OfTheSeat:
    """Of whoever sits at this computer: our own session, or another that has our seat now.

    A desktop only tells of its own session. Where another user's is in front, input to it counts; where that one tells
    nothing, its user is there.
    """

    def __init__(self, system: Bus, ours: Sensor[float], clock: Clock = time.monotonic) -> None:
        """`clock` paces what fails; logind's times are compared with the system's own clock."""
        self._system = system
        self._ours = ours
        self._patience = Patience("session in front", clock)

    async def read(self) -> float | None:
        if not self._patience.resting:
            try:
                async with asyncio.timeout(ANSWER_S):
                    in_front = await self._in_front()
                    self._patience.worked()
                    if in_front is not None:
                        return await self._idle_s(in_front)
            except FAILURES as error:
                self._patience.failed(in_words(error))
        return await self._ours.read()

    async def _in_front(self) -> DBusAddress | None:
        """Another user's session on our seat; None if ours is in front, or none but a login screen, or nobody knows."""
        if await self._system.property(OUR_SESSION, "Active") is not False:
            return None
        seat = await self._system.property(OUR_SESSION, "Seat")
        if seat is None or not seat[0]:
            return None
        address = DBusAddress(seat[1], bus_name=LOGIND.bus_name, interface=SEAT_INTERFACE)
        session = await self._system.property(address, "ActiveSession")
        if session is None or not session[0]:
            return None
        found = DBusAddress(session[1], bus_name=LOGIND.bus_name, interface=OUR_SESSION.interface)
        return None if await self._system.property(found, "Class") == "greeter" else found

    async def _idle_s(self, session: DBusAddress) -> float:
        idle = await self._system.property(session, "IdleHint")
        since_us = await self._system.property(session, "IdleSinceHintMonotonic")
        return max(0.0, time.monotonic() - int(since_us) / 1e6) if idle and since_us else 0.0


class FirstThatKnows:
    """Asks in order until one knows. Keeps to that one, but looks for a better one from time to time.

    One that fails or hangs is passed over for longer and longer; the others do not wait for it more than once.
    """

    def __init__(self, sources: Sequence[tuple[str, Sensor[float]]], clock: Clock = time.monotonic) -> None:
        self._sources = [(Patience(f"idle, by {name}", clock), source) for name, source in sources]
        self._clock = clock
        self._first = 0
        self._looked: float | None = None

    async def read(self) -> float | None:
        if self._looked is None or self._clock() - self._looked >= LOOK_AGAIN_S:
            self._first = 0
        value = await self._ask_from(self._first)
        if value is None and self._first:
            value = await self._ask_from(0)
        return value

    async def _ask_from(self, first: int) -> float | None:
        if first == 0:
            self._looked = self._clock()
        for index, (patience, source) in enumerate(self._sources[first:], start=first):
            if patience.resting:
                continue
            value = await self._ask(patience, source)
            if value is not None:
                self._first = index
                return value
        self._first = 0
        return None

    async def _ask(self, patience: Patience, source: Sensor[float]) -> float | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                value = await source.read()
        except FAILURES as error:
            patience.failed(in_words(error))
            return None
        patience.worked()
        return value
