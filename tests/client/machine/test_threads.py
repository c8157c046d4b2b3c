"""A thread is used again and again, never waited for, and gone when nobody needs it."""

import threading
from collections.abc import Iterator

import pytest

from legion_client.machine.threads import Threads

SOON_S = 10.0


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads()
    yield made
    made.close()


def done_by(threads: Threads) -> threading.Thread:
    """Who does the next piece of work, once it waits for more or has ended."""
    done, by = threading.Event(), []

    def work() -> None:
        by.append(threading.current_thread())
        done.set()

    threads.run(work, "legion-test")
    assert done.wait(SOON_S)
    settled(threads, by[0])
    return by[0]


def settled(threads: Threads, thread: threading.Thread) -> None:
    """It does nothing any more: the lock is free and it waits, or it has ended."""
    until = threading.Event()
    while thread.is_alive() and threads._waiting is None:
        until.wait(0.001)


def test_one_thread_does_one_thing_after_the_other(threads: Threads) -> None:
    first = done_by(threads)
    assert first.daemon
    assert first.name == "legion-test"
    assert {done_by(threads) for _ in range(5)} == {first}
    assert first is not threading.current_thread()


def test_one_that_hangs_holds_nothing_up(threads: Threads) -> None:
    release, stuck = threading.Event(), []

    def hang() -> None:
        stuck.append(threading.current_thread())
        release.wait(SOON_S)

    threads.run(hang, "legion-stuck")
    other = done_by(threads)
    assert done_by(threads) is other
    assert other not in stuck
    release.set()
    stuck[0].join(SOON_S)
    assert not stuck[0].is_alive(), "one that waits is enough"
    assert done_by(threads) is other


def test_none_is_left_behind() -> None:
    threads = Threads()
    waiting = done_by(threads)
    release, working = threading.Event(), []
    first = done_by(threads)
    threads.run(lambda: (working.append(threading.current_thread()), release.wait(SOON_S), None)[-1], "legion-busy")
    assert first is waiting
    threads.close()
    threads.close()
    release.set()
    waiting.join(SOON_S)
    assert not waiting.is_alive()
    assert working == [waiting]
