"""What a token bucket lets by, in any time and at any rate."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paced import FakeTime

from legion.comm.bucket import LEAST_BURST_BYTES, Bucket, Valve
from legion.sim.clock import run


async def at(moment: float) -> None:
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_at(moment, done.set_result, None)
    await done


RATES = st.integers(1, 10**9)
SIZES = st.integers(1, 1 << 21)
STEPS = st.lists(st.tuples(st.floats(0, 100), SIZES), min_size=1, max_size=40)


@given(RATES, STEPS)
def test_never_more_than_the_rate_and_one_burst_in_any_time(rate: int, steps: list[tuple[float, int]]) -> None:
    bucket, now, log = Bucket(rate), 0.0, list[tuple[float, int]]()
    for idle_s, size in steps:
        now += idle_s
        now += bucket.wait_s(size, now)
        bucket = bucket.passed(size, now)
        log.append((now, size))
    largest = max(size for _, size in log)
    for first in range(len(log)):
        total = 0
        for moment, size in log[first:]:
            total += size
            most = rate * (moment - log[first][0]) + max(bucket.burst_bytes, largest)
            assert total <= most * (1 + 1e-9) + 1e-3


@given(RATES, st.lists(SIZES, min_size=1, max_size=40))
def test_nobody_starves(rate: int, sizes: list[int]) -> None:
    """Who asks one after the other waits no longer than the bytes before him take, his own included."""
    bucket, now = Bucket(rate), 0.0
    for number, size in enumerate(sizes):
        now += bucket.wait_s(size, now)
        assert now <= sum(sizes[: number + 1]) / rate * (1 + 1e-9) + 1e-9
        bucket = bucket.passed(size, now)


@given(RATES, SIZES, st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_clock_that_goes_back_lets_nothing_by(rate: int, size: int, now: float, before: float) -> None:
    bucket = Bucket(rate, level=0.0, at=now)
    assert bucket.wait_s(size, min(now, before)) == bucket.wait_s(size, now)


@given(RATES, RATES, SIZES)
def test_another_rate_forgives_no_debt(rate: int, other: int, size: int) -> None:
    owing = Bucket(rate).passed(size, 0.0)
    assert owing.at_rate(other, 0.0).level == -size
    saved = Bucket(rate, level=float(owing.burst_bytes)).at_rate(other, 0.0)
    assert saved.level <= saved.burst_bytes


def test_a_valve_without_a_limit_only_counts() -> None:
    valve = Valve()
    run(valve.through(1 << 30))
    assert valve.passed_bytes == 1 << 30
    assert valve.piece_bytes(1 << 20) == 1 << 20
    assert valve.least_s(1 << 30) == 0.0


@given(st.integers(1, 10**7), st.lists(SIZES, min_size=2, max_size=8))
def test_pieces_pass_in_the_order_in_which_they_asked(rate: int, sizes: list[int]) -> None:
    time = FakeTime()
    valve, passed = time.valve(rate), list[int]()

    async def one(number: int, size: int) -> None:
        await valve.through(size)
        passed.append(number)

    async def main() -> None:
        await asyncio.gather(*(one(number, size) for number, size in enumerate(sizes)))

    run(main())
    assert passed == list(range(len(sizes)))
    time.assert_kept(valve, rate, largest=max(sizes))


def test_a_new_limit_holds_for_who_waits_already() -> None:
    async def main() -> tuple[float, float, float]:
        valve, clock = Valve(), asyncio.get_running_loop().time
        valve.limit(1000)
        waiting = asyncio.ensure_future(valve.through(10_000))  # 10 s
        await at(5.0)
        valve.limit(100)  # 5,000 bytes are left: 50 s
        await waiting
        slow = clock()
        waiting = asyncio.ensure_future(valve.through(10_000))
        await at(slow + 1.0)
        valve.limit(None)
        await waiting
        return slow, clock(), valve.passed_bytes

    assert run(main()) == (55.0, 56.0, 20_000)


def test_what_cannot_wait_is_owed_by_what_follows() -> None:
    async def main() -> float:
        valve = Valve()
        valve.limit(1000)
        valve.count(5000)
        await valve.through(1000)
        return asyncio.get_running_loop().time()

    assert run(main()) == 6.0


def test_who_gives_up_waiting_holds_nobody_back() -> None:
    async def main() -> float:
        valve = Valve()
        valve.limit(1000)
        first, second = (asyncio.ensure_future(valve.through(10_000)) for _ in range(2))
        await at(1.0)
        first.cancel()
        await second
        assert valve.passed_bytes == 10_000
        return asyncio.get_running_loop().time()

    assert run(main()) == 10.0


def test_who_comes_late_for_half_a_burst_loses_no_time() -> None:
    async def main() -> float:
        valve = Valve()
        valve.limit(100_000)
        piece = valve.piece_bytes(1 << 20)
        late_s = piece / 100_000  # beside the time for the next one, which half a burst holds too
        for _ in range(100):
            await valve.through(piece)
            await at(asyncio.get_running_loop().time() + late_s)
        return valve.passed_bytes / asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(100_000, rel=0.02)


def test_pieces_are_cut_to_half_a_burst() -> None:
    valve = Valve()

    async def main() -> None:
        valve.limit(4_000_000)

    run(main())
    assert valve.piece_bytes(1 << 21) == 500_000
    assert valve.piece_bytes(1000) == 1000
    assert valve.least_s(8_000_000) == 2.0
    assert Bucket(1).burst_bytes == LEAST_BURST_BYTES
