"""Sources that hang, fail, and come back; the others do not notice."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from legion_client.machine.lane import Lane
from legion_client.machine.sensing import FIRST_RETRY_S, LONGEST_RETRY_S, Pace, Patience, Slot, retry_after_s

PACE = Pace(period_s=2.0, limit_s=0.4)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Probed:
    """A probe that calls what it is given, and says in which thread it was read."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read = read
        self.threads: list[int] = []

    def read(self) -> Any:
        self.threads.append(threading.get_ident())
        return self._read()


class Asked:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def read(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer == "hangs":
            await asyncio.get_running_loop().create_future()
        return self.answer


def slot(source: Any, clock: Clock, name: str = "it") -> Slot[Any]:
    return Slot(name, source, PACE, clock)


def fails() -> None:
    raise ZeroDivisionError("no such luck")


async def read(lane: Lane, *slots: Slot[Any]) -> None:
    await asyncio.gather(*lane.start([each for each in slots if each.due]))


async def test_probes_share_a_thread_and_sensors_need_none() -> None:
    clock, lane = Clock(), Lane()
    one, two = Probed(lambda: 1), Probed(lambda: 2)
    slots = [slot(one, clock), slot(Asked(3), clock), slot(two, clock)]
    await read(lane, *slots)
    assert [each.value for each in slots] == [1, 3, 2]
    assert one.threads == two.threads != [threading.get_ident()]
    await lane.close()


@pytest.mark.parametrize("source", [Probed(fails), Asked(ZeroDivisionError("no such luck"))])
async def test_what_fails_is_unknown_said_once_and_tried_rarely(source: Any, caplog: pytest.LogCaptureFixture) -> None:
    clock, lane = Clock(), Lane()
    bad, good = slot(source, clock, "bad"), slot(Probed(lambda: 7), clock)
    bad.value = "old"
    with caplog.at_level(logging.INFO):
        await read(lane, bad, good)
        assert [bad.value, good.value] == [None, 7]
        clock.now = PACE.period_s
        assert [bad.due, good.due] == [False, True]
        for _ in range(3):
            clock.now += LONGEST_RETRY_S
            assert bad.due
            await read(lane, bad)
    assert caplog.text.count("sensor cannot be read") == 1
    assert "sensor=bad reason=ZeroDivisionError: no such luck retry_s=30" in caplog.text
    await lane.close()


async def test_sensor_that_hangs_is_cut_off_and_recovers(caplog: pytest.LogCaptureFixture) -> None:
    clock, lane = Clock(), Lane()
    source = Asked("hangs")
    hanging = slot(source, clock)
    with caplog.at_level(logging.INFO):
        await read(lane, hanging)
        assert hanging.value is None
        assert not hanging.due
        source.answer = 5
        clock.now += FIRST_RETRY_S
        await read(lane, hanging)
    assert hanging.value == 5
    assert [record.getMessage().split(" sensor=")[0] for record in caplog.records] == [
        "sensor cannot be read",
        "sensor can be read again",
    ]
    await lane.close()


async def test_probe_that_hangs_gives_the_rest_to_another_thread(caplog: pytest.LogCaptureFixture) -> None:
    clock, lane, release = Clock(), Lane(), threading.Event()
    others = threading.Event()
    first, stuck = Probed(lambda: 1), Probed(lambda: release.wait() and others.wait(5))
    last = Probed(lambda: others.set() or 3)
    slots = [slot(first, clock), slot(stuck, clock, "stuck"), slot(last, clock)]
    reading = lane.start(slots)
    async with asyncio.timeout(5):
        while slots[2].value is None:
            await asyncio.wait(reading, timeout=0.01)
    assert [each.value for each in slots] == [1, None, 3]
    assert last.threads != stuck.threads == first.threads
    async with asyncio.timeout(5):
        while "sensor cannot be read" not in caplog.text:
            await asyncio.wait(reading, timeout=0.01)
    clock.now += LONGEST_RETRY_S
    assert [each.due for each in slots] == [True, False, True]  # its thread still hangs: there is never a second one
    await read(lane, *slots)
    release.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*reading)
    assert slots[1].value is None  # what comes that late is not believed
    others.clear()
    clock.now += LONGEST_RETRY_S
    await read(lane, *slots)
    assert slots[1].value is True
    assert not slots[1].slow  # it was read beside the others: after it, they would have come too late for it
    await lane.close()


async def test_probe_that_is_only_slow_is_believed() -> None:
    clock, lane, release = Clock(), Lane(), threading.Event()
    slow = slot(Probed(release.wait), clock)
    reading = lane.start([slow])
    async with asyncio.timeout(5):
        while not slow.slow:
            await asyncio.wait(reading, timeout=0.01)
    release.set()
    await asyncio.gather(*reading)
    assert slow.value is True
    await lane.close()


async def test_closing_waits_for_nobody() -> None:
    clock, lane, release = Clock(), Lane(), threading.Event()
    after = Probed(lambda: 1)
    reading = lane.start([slot(Asked("hangs"), clock), slot(Probed(release.wait), clock), slot(after, clock)])
    async with asyncio.timeout(5):
        await asyncio.wait(reading, timeout=0)
        await lane.close()
    release.set()
    assert after.threads == []


def test_rests_grow_to_ten_minutes_and_start_anew() -> None:
    assert [retry_after_s(failures) for failures in (1, 2, 3, 4, 5, 6, 10_000)] == [30, 60, 120, 240, 480, 600, 600]
    clock = Clock()
    patience = Patience("it", clock)
    assert not patience.resting
    patience.failed("once")
    assert patience.resting
    clock.now = FIRST_RETRY_S
    assert not patience.resting
    patience.worked()
    clock.now = 0.0
    assert not patience.resting
