"""The crossing between compute thread and loop: results, errors, order, and what waiting is charged for."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from legion.comm.api import Usage
from legion.comm.bridge import Bridge, DoneWork, LoopWork
from legion.errors import PeerLost


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own; the test is the compute thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_work_is_done_on_the_loop_and_its_result_waited_for(loop: asyncio.AbstractEventLoop) -> None:
    async def work() -> int:
        return threading.get_ident()

    launched = Bridge(loop, Usage()).submit(work())
    assert launched.wait() != threading.get_ident()
    assert launched.done()
    assert launched.wait() == launched.wait()


def test_an_error_comes_out_of_every_wait(loop: asyncio.AbstractEventLoop) -> None:
    async def work() -> None:
        raise PeerLost("ann is gone")

    launched = Bridge(loop, Usage()).submit(work())
    for _ in range(2):
        with pytest.raises(PeerLost, match="ann"):
            launched.wait()
    assert launched.done()


class WatchedFuture(Future[int]):
    """Says when somebody begins to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for = threading.Event()

    def result(self, timeout: float | None = None) -> int:
        self.waited_for.set()
        return super().result(timeout)


def test_waiting_is_charged_and_being_done_is_not() -> None:
    usage, future = Usage(), WatchedFuture()
    work = LoopWork(future, usage)
    assert not work.done()
    thread = threading.Thread(target=work.wait)
    thread.start()
    future.waited_for.wait()
    future.set_result(7)
    thread.join()
    charged = usage.waiting_s
    assert charged > 0
    assert work.done()
    assert work.wait() == 7
    assert usage.waiting_s == charged


def test_calls_are_made_in_the_order_of_posting_and_before_later_work(loop: asyncio.AbstractEventLoop) -> None:
    """A collection is opened by a post and waited for by a submit: the opening must come first."""
    bridge, made = Bridge(loop, Usage()), list[int]()

    async def so_far() -> list[int]:
        return list(made)

    for number in range(100):
        bridge.post(made.append, number)
    assert bridge.submit(so_far()).wait() == list(range(100))


def test_work_with_nothing_to_do() -> None:
    assert DoneWork(3).done()
    assert DoneWork(3).wait() == 3
