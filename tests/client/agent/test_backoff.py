"""The retry policy: pauses that grow to a bound, what a server asks for, and errors that come out at once."""

import asyncio
import itertools
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.errors import ServerUnreachable, Unavailable, WorkerRevoked
from legion_client.agent import backoff
from legion_client.agent.backoff import FIRST_S, LONGEST_ASKED_S, LONGEST_S, pauses, persistently, retry_after_s

NOW = 1_700_000_000.0


def test_pauses_double_up_to_a_bound() -> None:
    longest = list(itertools.islice(pauses(lambda: 1.0), 8))
    assert longest == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert list(itertools.islice(pauses(lambda: 0.0), 8)) == [0.0] * 8, "full jitter: any part of the bound"


def test_two_clients_do_not_come_back_together() -> None:
    first, second = (list(itertools.islice(pauses(), 20)) for _ in range(2))
    assert first != second
    assert all(0 <= pause <= LONGEST_S for pause in first + second)


def test_a_thousand_clients_spread_over_the_whole_pause() -> None:
    """Of a server that comes back: in no tenth of the longest pause come many more than in another."""
    last = [next(itertools.islice(pauses(), 8, None)) for _ in range(1000)]
    tenths = [sum(place <= 10 * pause / LONGEST_S < place + 1 for pause in last) for place in range(10)]
    assert max(tenths) < 200
    assert FIRST_S < LONGEST_S


# What a server asks for.


@given(st.integers(0, 10**12), st.integers(0, 10**10))
def test_seconds_are_heeded_up_to_an_hour(seconds: int, now: int) -> None:
    assert retry_after_s({"Retry-After": f" {seconds} "}, now) == min(seconds, LONGEST_ASKED_S)


@given(ahead=st.integers(-(10**6), 10**6), clock_is_off_by=st.integers(-(10**8), 10**8))
def test_a_date_is_heeded_by_the_servers_own_clock(ahead: int, clock_is_off_by: int) -> None:
    asked = {"Retry-After": formatdate(NOW + ahead, usegmt=True)}
    expected = min(max(0.0, float(ahead)), LONGEST_ASKED_S)
    assert retry_after_s(asked, NOW) == expected
    assert retry_after_s(asked | {"Date": formatdate(NOW, usegmt=True)}, NOW + clock_is_off_by) == expected


@given(st.text(max_size=40))
def test_what_says_nothing_of_use_is_no_reason_to_fail(text: str) -> None:
    found = retry_after_s({"Retry-After": text, "Date": text}, NOW)
    assert found is None or 0 <= found <= LONGEST_ASKED_S


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "²", "Wed, 99 Foo 2026", "0x10"])
def test_nonsense_asks_for_nothing(text: str) -> None:
    assert retry_after_s({"Retry-After": text}, NOW) is None
    assert retry_after_s({}, NOW) is None


async def test_the_pause_is_what_was_asked_for_and_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(backoff.asyncio, "sleep", sleep)

    async def call() -> int:
        if len(slept) < 3:
            raise Unavailable("busy", retry_after_s=7.0) if len(slept) != 1 else Unavailable("busy")
        return 1

    assert await persistently("call", call) == 1
    assert [7 <= pause <= 7 + LONGEST_S for pause in slept] == [True, False, True]
    assert len({pause % 7 for pause in slept}) == 3


async def test_a_failing_call_is_repeated_with_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.0)
    heard: list[int] = []

    async def call(number: int) -> int:
        heard.append(number)
        if len(heard) < 4:
            raise ServerUnreachable("away")
        return number * 2

    assert await persistently("call", call, 21) == 42
    assert heard == [21] * 4


async def test_what_time_does_not_cure_comes_out_at_once() -> None:
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise WorkerRevoked("gone")

    with pytest.raises(WorkerRevoked):
        await persistently("call", call)
    assert calls == 1


async def test_it_can_be_cancelled_while_it_waits() -> None:
    asked = asyncio.Event()

    async def call() -> None:
        asked.set()
        raise ServerUnreachable("away")

    task = asyncio.create_task(persistently("call", call))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
