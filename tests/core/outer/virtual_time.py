"""An event loop whose time is told, not waited for: it jumps to the next timer as soon as nothing else can happen."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Waits in earnest only while a thread is at work: it may have something to say before any timer."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0 or self.loop.threads_at_work:
            return super().select(None if self.loop.threads_at_work and timeout else timeout)
        events = super().select(0)
        if not events:
            self.loop.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """`now`: seconds since it began. Work in threads takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.threads_at_work = 0
        selector = _Jumping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        self.threads_at_work += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._back)
        return future

    def _back(self, _: object) -> None:
        self.threads_at_work -= 1


def in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


async def settled() -> None:
    """Everything that can happen without time passing has happened."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    now = loop.now
    quiet_turns = 0
    while quiet_turns < 50:
        await asyncio.sleep(0)
        quiet_turns = 0 if loop.threads_at_work else quiet_turns + 1
    assert loop.now == now


async def later(seconds: float) -> None:
    """That much virtual time has passed, and everything that follows from it has happened."""
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_later(seconds, passed.set_result, None)
    await passed
    await settled()
