"""The retry policy: pauses that grow to a bound, and errors that come out at once."""

import asyncio
import itertools

import pytest

from legion.errors import ServerUnreachable, WorkerRevoked
from legion_client.agent import backoff
from legion_client.agent.backoff import FIRST_S, LONGEST_S, pauses, persistently


def test_pauses_double_up_to_a_bound() -> None:
    longest = list(itertools.islice(pauses(lambda: 1.0), 8))
    assert longest == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert list(itertools.islice(pauses(lambda: 0.0), 8)) == [pause / 2 for pause in longest]


def test_two_clients_do_not_come_back_together() -> None:
    first, second = (list(itertools.islice(pauses(), 20)) for _ in range(2))
    assert first != second
    assert all(FIRST_S / 2 <= pause <= LONGEST_S for pause in first + second)


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
