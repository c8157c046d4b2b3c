"""The only crossing between the compute thread and the event loop.

The compute thread launches coroutines and waits for their Work; the loop never waits for the compute thread.
"""

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from legion.comm.api import Usage, Work

T = TypeVar("T")


class LoopWork(Generic[T]):
    """Work that a coroutine on the loop does. Time spent in `wait` is counted in `usage`."""

    def __init__(self, future: "concurrent.futures.Future[T]", usage: Usage) -> None:
        self._future = future
        self._usage = usage

    def wait(self) -> T:
        self._usage.crossings += 1
        if self._future.done():
            return self._future.result()
        started = time.perf_counter()
        self._usage.waiting = True
        try:
            return self._future.result()
        finally:
            self._usage.waiting_s += time.perf_counter() - started
            self._usage.waiting = False
            self._usage.crossings += 1

    def done(self) -> bool:
        return self._future.done()


class DoneWork(Generic[T]):
    """Work with nothing to do."""

    def __init__(self, result: T) -> None:
        self._result = result

    def wait(self) -> T:
        return self._result

    def done(self) -> bool:
        return True


class Bridge:
    """Calls from the compute thread into `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, usage: Usage) -> None:
        self._loop = loop
        self._usage = usage

    def submit(self, work: Coroutine[Any, Any, T]) -> Work[T]:
        return LoopWork(asyncio.run_coroutine_threadsafe(work, self._loop), self._usage)

    def post(self, call: Callable[..., None], *args: Any) -> None:
        """Run `call(*args)` on the loop, in the order of posting; nobody waits for it."""
        self._loop.call_soon_threadsafe(call, *args)
