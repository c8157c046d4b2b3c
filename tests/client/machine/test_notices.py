"""Sleep and shutdown, announced by a scripted logind that really waits for its lock."""

import asyncio
import logging
from collections.abc import Callable, Iterator

import pytest

from legion_client.machine.bus import Bus
from legion_client.machine.notices import Coming, Notice, SleptThrough, slept
from legion_client.machine.notices_linux import LogindNotices
from tests.client.machine.fake_logind import MANAGER, Locks, Serve, announce, logind
from tests.client.machine.fake_service import SILENCE, Refusal
from tests.client.machine.private_desktop import MessageBus


@pytest.fixture
def locks() -> Iterator[Locks]:
    locks = Locks()
    yield locks
    locks.close()


class Listening:
    """Takes notices one by one in a task of its own, as an agent does."""

    def __init__(self, bus: Bus, listen_again_s: float = 0.01) -> None:
        self._notices = LogindNotices(bus, listen_again_s=listen_again_s).notices()
        self.heard: asyncio.Queue[Notice] = asyncio.Queue()
        self._bus = bus

    async def __aenter__(self) -> "Listening":
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        await self._notices.aclose()  # type: ignore[attr-defined]
        await self._bus.close()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.wait({self._task}, timeout=0.01)

    async def next(self) -> Notice:
        async with asyncio.timeout(20):
            return await self.heard.get()

    async def _listen(self) -> None:
        async for notice in self._notices:
            await self.heard.put(notice)


async def test_sleep_waits_for_us_and_the_lock_is_taken_again_after_it(
    message_bus: MessageBus, serve: Serve, locks: Locks
) -> None:
    service = logind(serve, locks)
    async with Listening(Bus(lambda: message_bus.socket)) as listening:
        await listening.until(lambda: locks.held == [True])
        announce(service, "PrepareForSleep", True)
        notice = await listening.next()
        assert (notice.coming, notice.within_s) == (Coming.SLEEP, 5.0)
        assert locks.held == [True]
        notice.ready()
        notice.ready()
        assert locks.held == [False]
        announce(service, "PrepareForSleep", False)
        assert (await listening.next()).coming is Coming.AWAKE
        assert locks.held == [False, True]
        announce(service, "PrepareForShutdown", True)
        assert (await listening.next()).coming is Coming.SHUTDOWN
    assert locks.held == [False, False]


async def test_logind_that_restarts_is_asked_for_a_new_lock(
    message_bus: MessageBus, serve: Serve, locks: Locks
) -> None:
    service = logind(serve, locks)
    async with Listening(Bus(lambda: message_bus.socket)) as listening:
        await listening.until(lambda: locks.held == [True])
        service.stop()
        service = logind(serve, locks)
        await listening.until(lambda: len(locks.held) > 1 and locks.held[-1])
        announce(service, "PrepareForSleep", True)
        assert (await listening.next()).within_s == 5.0


async def test_bus_that_comes_late_or_comes_back_is_listened_to(
    message_bus: MessageBus, serve: Serve, locks: Locks
) -> None:
    message_bus.kill()
    async with Listening(Bus(lambda: message_bus.socket)) as listening:
        for _ in range(2):
            message_bus.start()
            service = logind(serve, locks)
            await listening.until(lambda: any(locks.held))
            announce(service, "PrepareForSleep", True)
            assert (await listening.next()).coming is Coming.SLEEP
            message_bus.kill()
            await listening.until(lambda: not any(locks.held))


@pytest.mark.parametrize("answer", [Refusal("org.freedesktop.DBus.Error.AccessDenied"), SILENCE])
async def test_without_a_lock_notices_come_but_nobody_waits(
    message_bus: MessageBus,
    serve: Serve,
    locks: Locks,
    answer: Refusal | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = logind(serve, locks).on(MANAGER, "Inhibit", answer)
    async with Listening(Bus(lambda: message_bus.socket)) as listening:
        with caplog.at_level(logging.WARNING):
            await listening.until(lambda: "sleep and shutdown" in caplog.text)
        announce(service, "PrepareForShutdown", True)
        notice = await listening.next()
        assert (notice.coming, notice.within_s) == (Coming.SHUTDOWN, 0.0)
        notice.ready()


async def test_clocks_tell_of_a_sleep_that_nobody_announced() -> None:
    awake, wall = iter([0.0, 20.0, 40.0]), iter([1000.0, 1020.0, 5000.0])
    notices = SleptThrough(lambda: next(awake), lambda: next(wall), look_s=0).notices()
    assert (await anext(notices)).coming is Coming.AWAKE
    await notices.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((0, 0), (20, 20), False),
        ((0, 0), (20, 50), True),
        ((0, 0), (20, 49), False),
        ((0, 1000), (20, 0), False),  # the clock was set back
        ((0, 0), (3600, 3600), True),  # a clock that counts sleep too
    ],
)
def test_what_passes_for_a_sleep(before: tuple[float, float], now: tuple[float, float], expected: bool) -> None:
    assert slept(before, now, expected_s=20) is expected
