"""Virtual time: order, cancellation, timeouts, and threads that take turns with the loop."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from legion.comm.api import Usage
from legion.errors import PeerLost, RunError
from legion.sim.clock import Actor, Crossing, run


def now() -> float:
    return asyncio.get_running_loop().time()


async def after(seconds: float) -> float:
    """Virtual time goes by; the tests wait for nothing real."""
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, done.set_result, None)
    await done
    return now()


def test_days_pass_at_once() -> None:
    started = time.monotonic()
    assert run(after(86_400.0 * 365)) == 86_400.0 * 365
    assert time.monotonic() - started < 10


def test_timers_come_in_the_order_of_time() -> None:
    async def main() -> list[tuple[float, float]]:
        seen: list[tuple[float, float]] = []

        async def note(seconds: float) -> None:
            seen.append((seconds, await after(seconds)))

        await asyncio.gather(*(note(seconds) for seconds in (3.0, 1.0, 2.5, 0.0, 1.0)))
        return seen

    assert run(main()) == [(0.0, 0.0), (1.0, 1.0), (1.0, 1.0), (2.5, 2.5), (3.0, 3.0)]


@pytest.mark.parametrize("start", [0.1, 177.966884238537, 1e7 / 3])
def test_a_timer_never_rings_early(start: float) -> None:
    """Whoever waits until a moment must find that it has come, or it would wait without end for no time at all."""

    async def main() -> None:
        await after(start)
        for step in range(1, 200):
            due = now() + step / 7
            while now() < due:
                before = now()
                await after(due - before)
                assert now() > before

    run(main())


def test_timeouts_are_virtual() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30.0):
                await after(31.0)
        async with asyncio.timeout(30.0):
            await after(29.0)
        return now()

    assert run(main()) == 59.0


def test_what_is_cancelled_takes_no_time() -> None:
    async def main() -> float:
        task = asyncio.create_task(after(1000.0))
        await after(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return now()

    assert run(main()) == 1.0


def test_threads_of_executors_take_no_time_and_no_thread() -> None:
    async def main() -> tuple[int, float]:
        return await asyncio.to_thread(threading.get_ident), now()

    assert run(main()) == (threading.get_ident(), 0.0)


def test_an_error_in_an_executor_comes_out() -> None:
    def fail() -> None:
        raise PeerLost("gone")

    async def main() -> None:
        with pytest.raises(PeerLost, match="gone"):
            await asyncio.to_thread(fail)

    run(main())


def test_a_standstill_is_an_error_and_no_silence() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RunError, match="stands still at"):
        run(main())


def acting(work: Callable[[Actor[float], Crossing], float], *others: Callable[[], Awaitable[object]]) -> float:
    async def main() -> float:
        actor: Actor[float] = Actor("actor")
        async with asyncio.TaskGroup() as tasks:
            for other in others:
                tasks.create_task(_awaited(other))
            return await actor.run(lambda: work(actor, Crossing(actor, Usage())))

    async def _awaited(other: Callable[[], Awaitable[object]]) -> None:
        await other()

    return run(main())


def test_an_actor_sleeps_in_virtual_time() -> None:
    def work(actor: Actor[float], crossing: Crossing) -> float:
        actor.spend(12.0)
        actor.spend(30.0)
        return actor.loop.time()

    assert acting(work) == 42.0


def test_work_goes_on_while_an_actor_sleeps() -> None:
    def work(actor: Actor[float], crossing: Crossing) -> float:
        long, short = crossing.submit(after(10.0)), crossing.submit(after(1.0))
        actor.spend(4.0)
        assert short.done()
        assert not long.done()
        assert (short.wait(), long.wait()) == (1.0, 10.0)
        return actor.loop.time()

    assert acting(work) == 10.0


def test_only_waiting_counts_as_waiting() -> None:
    usage = Usage()

    async def main() -> None:
        actor: Actor[None] = Actor("actor")
        crossing = Crossing(actor, usage)

        def work() -> None:
            under_way = crossing.submit(after(10.0))
            actor.spend(4.0)
            under_way.wait()
            under_way.wait()

        await actor.run(work)

    run(main())
    assert usage.waiting_s == 6.0


def test_one_thread_at_a_time() -> None:
    """Ten actors that would interleave: each finds what it left."""

    async def main() -> list[int]:
        shared: list[int] = []

        def work(number: int, actor: Actor[None]) -> None:
            for turn in range(20):
                shared.append(number)
                before = len(shared)
                sum(range(2000))
                assert len(shared) == before
                actor.spend(1.0 + (number * 7 + turn) % 3)

        actors = [Actor[None](f"actor {number}") for number in range(10)]
        await asyncio.gather(*(a.run(lambda n=n, a=a: work(n, a)) for n, a in enumerate(actors)))  # type: ignore[misc]
        return shared

    first = run(main())
    assert len(first) == 200
    assert first == run(main())


def test_errors_of_an_actor_come_out() -> None:
    def work(actor: Actor[float], crossing: Crossing) -> float:
        actor.spend(1.0)
        raise PeerLost("lost at sea")

    with pytest.raises(ExceptionGroup) as caught:
        acting(work)
    assert caught.group_contains(PeerLost, match="lost at sea")


def test_errors_of_work_come_out_where_it_is_waited_for() -> None:
    async def fail() -> None:
        await after(1.0)
        raise PeerLost("lost at sea")

    def work(actor: Actor[float], crossing: Crossing) -> float:
        failing = crossing.submit(fail())
        crossing.submit(fail())  # nobody waits for this one
        with pytest.raises(PeerLost, match="lost at sea"):
            failing.wait()
        return actor.loop.time()

    assert acting(work) == 1.0


@pytest.mark.parametrize("asleep", [True, False])
def test_an_actor_can_be_interrupted(asleep: bool) -> None:
    async def main() -> float:
        actor: Actor[None] = Actor("actor")
        crossing = Crossing(actor, Usage())
        asyncio.get_running_loop().call_later(5.0, actor.interrupt, PeerLost("switched off"))
        with pytest.raises(PeerLost, match="switched off"):
            await actor.run(lambda: actor.spend(1000.0) if asleep else crossing.submit(after(1000.0)).wait() and None)
        return now()

    assert run(main()) == 5.0


def test_an_actor_that_is_cancelled_ends_first() -> None:
    ended: list[str] = []

    async def main() -> None:
        actor: Actor[None] = Actor("actor")

        def work() -> None:
            try:
                actor.spend(1000.0)
            finally:
                ended.append("ended")

        task = asyncio.create_task(actor.run(work))
        await after(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["ended"]

    run(main())
