"""Windows' functions replaced at the boundary of ctypes: real structures, real tables of functions, other answers."""

import asyncio
import ctypes
import os
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_client.machine.idle_windows import WRAP_MS, LastInput, LastInputInfo, passed_s
from legion_client.machine.network_windows import FUNCTION, NETWORK_COST_MANAGER, ConnectionCost, metered
from legion_client.machine.notices import Coming
from legion_client.machine.notices_windows import RESUME, RESUME_AFTER_INPUT, SUSPEND, Subscription, SuspendNotices
from legion_client.machine.screen import ScreenUse
from legion_client.machine.screen_windows import NotificationState


def at(reference: Any, kind: Any) -> Any:
    """What a `byref` points to."""
    return ctypes.cast(reference, ctypes.POINTER(kind)).contents


class Desktop:
    ours, in_front, user = 2, 2, "somebody"

    def __init__(self, touched: int, now: int, works: int = 1) -> None:
        self.touched, self.now, self.works = touched, now, works
        self.freed: list[str | None] = []

    def GetLastInputInfo(self, reference: Any) -> int:  # noqa: N802
        info = at(reference, LastInputInfo)
        assert info.cbSize == 8
        info.dwTime = self.touched
        return self.works

    def GetTickCount(self) -> int:  # noqa: N802
        return self.now

    def WTSGetActiveConsoleSessionId(self) -> int:  # noqa: N802
        return self.in_front

    def ProcessIdToSessionId(self, process: int, reference: Any) -> int:  # noqa: N802
        assert process == os.getpid()
        at(reference, ctypes.c_uint32).value = self.ours
        return 1

    def WTSQuerySessionInformationW(  # noqa: N802
        self, server: None, session: int, kind: int, name: Any, size_bytes: Any
    ) -> int:
        assert (server, session, kind) == (None, self.in_front, 5)
        self._name = ctypes.create_unicode_buffer(self.user)
        at(name, ctypes.c_void_p).value = ctypes.addressof(self._name)
        at(size_bytes, ctypes.c_uint32).value = 2 * len(self.user) + 2
        return self.works

    def WTSFreeMemory(self, name: Any) -> None:  # noqa: N802
        self.freed.append(name.value)


@pytest.mark.parametrize(
    ("touched", "now", "idle_s"),
    [
        (1000, 4500, 3.5),
        (WRAP_MS - 1000, 2000, 3.0),  # the counter started anew
        (WRAP_MS - 1000, 2000 - WRAP_MS, 3.0),  # a signed answer
        (5000, 4990, 0.0),  # a touch between the two questions
    ],
)
def test_idle_time_over_the_end_of_the_counter(touched: int, now: int, idle_s: float) -> None:
    desktop = Desktop(touched, now)
    assert LastInput(desktop, desktop, desktop).read() == idle_s


def test_service_without_a_desktop_has_no_idle_time() -> None:
    desktop = Desktop(0, 0, works=0)
    assert LastInput(desktop, desktop, desktop).read() is None


@pytest.mark.parametrize(
    ("ours", "in_front", "user", "idle_s"),
    [
        (2, 2, "us", 3.5),
        (2, 3, "another", 0.0),
        (2, 3, "", 3.5),  # a login screen: we are there from afar
        (2, WRAP_MS - 1, "nobody", 3.5),  # no screen at all
        (2, -1, "nobody", 3.5),
    ],
)
def test_another_user_who_has_the_screen_is_there(ours: int, in_front: int, user: str, idle_s: float) -> None:
    desktop = Desktop(1000, 4500)
    desktop.ours, desktop.in_front, desktop.user = ours, in_front, user
    assert LastInput(desktop, desktop, desktop).read() == idle_s
    assert len(desktop.freed) == (1 if in_front == 3 else 0)


@given(st.integers(0, WRAP_MS - 1), st.integers(0, 40 * 24 * 3600 * 1000))
def test_passed_time_is_that_of_an_endless_counter(touched: int, passed_ms: int) -> None:
    assert passed_s(touched, (touched + passed_ms) % WRAP_MS) == passed_ms / 1000


@pytest.mark.parametrize(
    ("state", "use"),
    [
        (1, ScreenUse(full_screen=False, game=False)),
        (2, ScreenUse(full_screen=True)),
        (3, ScreenUse(full_screen=True, game=True)),
        (5, ScreenUse(full_screen=False)),
        (99, None),
    ],
)
def test_what_covers_the_screen(state: int, use: ScreenUse | None) -> None:
    class Shell:
        answer = 0

        def SHQueryUserNotificationState(self, reference: Any) -> int:  # noqa: N802
            at(reference, ctypes.c_int).value = state
            return self.answer

    shell = Shell()
    assert NotificationState(shell).read() == use
    shell.answer = -2147467259  # E_FAIL
    assert NotificationState(shell).read() is None


class Com:
    """ole32 with one class, whose objects are as in memory: a pointer to a table of functions."""

    def __init__(self, cost: int, answer: int = 0, made: int = 0) -> None:
        self.initialized = self.references = 0
        self._made = made

        def get_cost(_this: int, reference: Any, _address: int | None) -> int:
            reference[0] = cost
            return answer

        def release(_this: int) -> int:
            self.references -= 1
            return self.references

        cost_kind = FUNCTION(ctypes.c_long, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.c_void_p)
        self._functions = (cost_kind(get_cost), FUNCTION(ctypes.c_uint32, ctypes.c_void_p)(release))
        pointers = [ctypes.cast(function, ctypes.c_void_p).value for function in self._functions]
        self._table = (ctypes.c_void_p * 4)(None, None, pointers[1], pointers[0])
        self._object = ctypes.c_void_p(ctypes.addressof(self._table))

    def CoInitializeEx(self, _reserved: None, _mode: int) -> int:  # noqa: N802
        self.initialized += 1
        return 0

    def CoUninitialize(self) -> None:  # noqa: N802
        self.initialized -= 1

    def CoCreateInstance(self, _kind: bytes, _outer: None, _context: int, interface: bytes, reference: Any) -> int:  # noqa: N802
        assert interface == NETWORK_COST_MANAGER
        if self._made == 0:
            self.references += 1
            at(reference, ctypes.c_void_p).value = ctypes.addressof(self._object)
        return self._made


@pytest.mark.parametrize(
    ("com", "expected"),
    [(Com(cost=1), False), (Com(cost=2), True), (Com(cost=1, answer=-1), None), (Com(cost=1, made=-1), None)],
)
def test_cost_is_asked_of_a_com_object_that_is_released(com: Com, expected: bool | None) -> None:
    assert ConnectionCost(com).read() is expected
    assert (com.initialized, com.references) == (0, 0)


@pytest.mark.parametrize(
    ("cost", "expected"), [(0, None), (1, False), (2, True), (4, True), (0x10000 | 1, True), (0x40000 | 1, True)]
)
def test_meaning_of_costs(cost: int, expected: bool | None) -> None:
    assert metered(cost) is expected


class PowerProfile:
    error = 0
    subscription: Any = None

    def PowerRegisterSuspendResumeNotification(self, _flags: int, reference: Any, _handle: Any) -> int:  # noqa: N802
        self.subscription = at(reference, Subscription)
        return self.error

    def PowerUnregisterSuspendResumeNotification(self, _handle: Any) -> int:  # noqa: N802
        self.subscription = None
        return 0

    def announce(self, event: int) -> threading.Thread:
        """In a thread of its own, as Windows does."""
        thread = threading.Thread(target=self.subscription.callback, args=(None, event, None))
        thread.start()
        return thread


async def test_windows_waits_for_us_before_it_sleeps() -> None:
    profile = PowerProfile()
    notices = SuspendNotices(profile, within_s=60).notices()
    first = asyncio.ensure_future(anext(notices))
    while profile.subscription is None:
        await asyncio.wait({first}, timeout=0.01)
    profile.announce(RESUME_AFTER_INPUT).join()  # comes besides the other, and is not told
    windows = profile.announce(SUSPEND)
    notice = await first
    assert (notice.coming, notice.within_s) == (Coming.SLEEP, 60)
    assert windows.is_alive()
    notice.ready()
    await asyncio.to_thread(windows.join, 30)
    assert not windows.is_alive()
    profile.announce(RESUME).join()
    assert (await anext(notices)).coming is Coming.AWAKE
    await notices.aclose()  # type: ignore[attr-defined]
    assert profile.subscription is None
