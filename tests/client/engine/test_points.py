"""When a member can take another restore point, and what its disk holds by then."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from legion.checkpoint.copies import CopyLink, PointFolder, PointName
from legion.comm.api import Usage
from legion.comm.bridge import Bridge
from legion.errors import PeerLost
from legion.ids import ClusterId, Epoch, Rank, RunId, Step
from legion.layout import CHUNK
from legion.outer.point import Progress, standing_of
from legion.outer.state import StateInfo
from legion_client.engine.points import FREE_BYTES, WEAR_BYTES_PER_S, Points, held

EPOCH = Epoch(3)


class NextMember:
    """Has a copy when the test says so."""

    def __init__(self) -> None:
        self.asked: list[PointName] = []
        self.waiting: list[asyncio.Future[None]] = []

    async def keep(self, _folder: PointFolder, name: PointName) -> None:
        self.asked.append(name)
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


class Taking:
    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, every: int = 4) -> None:
        self.folder, self.next, self.clock, self.back_to = PointFolder(folder), NextMember(), Clock(), list[int]()
        self.loop = loop
        link, bridge = cast(CopyLink, self.next), Bridge(loop, Usage())
        self.points = Points(self.folder, EPOCH, Rank(1), link, bridge, every, self.back_to.append, clock=self.clock)

    def take(self, step: int, anchor: int = 0, owned: int = CHUNK) -> None:
        info = StateInfo(
            run_id=RunId("run-test"),
            config_digest="1" * 64,
            units=(2 * owned,),
            shares=(1, 1),
            rank=Rank(1),
            cluster=ClusterId("c3"),
            sent_as=ClusterId("c3"),
            anchor=anchor,
            final=False,
            steps=0,
            tokens=0,
            optimizer_steps=0,
            momentum=False,
            spans=(),
            standing=standing_of(EPOCH, Step(step), -1, Progress(), {}),
        )
        arrays = {name: np.zeros(owned, np.float32) for name in ("weights", "exp_avg", "exp_avg_sq", "anchor")}
        self.points.take(info, arrays, [])

    def arrive(self, error: Exception | None = None) -> None:
        """The newest copy is whole; returns once that is known."""
        done: Any = asyncio.run_coroutine_threadsafe(self._arrive(error), self.loop)
        done.result()

    async def _arrive(self, error: Exception | None) -> None:
        future = self.next.waiting[-1]
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def step(self, count: int) -> None:
        for _ in range(count):
            self.points.stepped()


def test_the_first_is_taken_at_once_and_others_every_few_steps(tmp_path: Path, loop: Any) -> None:
    taking = Taking(tmp_path, loop)
    assert taking.points.may_keep
    taking.take(1)
    taking.step(10)
    assert not taking.points.may_keep, "nobody else has it yet"
    taking.arrive()
    assert taking.points.may_keep
    taking.take(11)
    taking.arrive()
    taking.step(2)
    assert not taking.points.may_keep
    taking.step(1)
    assert taking.points.may_keep, "the fourth step is about to be voted on"


def test_two_are_kept_and_the_anchors_that_they_stand_on(tmp_path: Path, loop: Any) -> None:
    taking = Taking(tmp_path, loop)
    for step, anchor in ((1, 0), (5, 1), (9, 1), (13, 3)):
        taking.take(step, anchor)
        taking.arrive()
    assert [(p.step, p.anchor, p.ranks) for p in held(taking.folder)] == [(9, 1, (1,)), (13, 3, (1,))]
    assert taking.back_to == [0, 1, 1]
    assert taking.next.asked == [PointName(EPOCH, Step(step), Rank(1)) for step in (1, 5, 9, 13)]


def test_one_whose_copy_does_not_arrive_is_the_last(tmp_path: Path, loop: Any) -> None:
    taking = Taking(tmp_path, loop)
    taking.take(1)
    taking.arrive(PeerLost("the next member is gone"))
    taking.step(100)
    assert not taking.points.may_keep


def test_the_disk_of_a_volunteer_is_spared(tmp_path: Path, loop: Any) -> None:
    taking = Taking(tmp_path, loop, every=1)
    owned = FREE_BYTES // 16  # a file of 64 MiB, and its copy
    taking.take(1, owned=owned)
    taking.arrive()
    worn_s = FREE_BYTES / WEAR_BYTES_PER_S
    taking.clock.now_s = worn_s - 0.1
    assert not taking.points.may_keep
    taking.clock.now_s = worn_s + 0.1
    assert taking.points.may_keep


def test_a_disk_that_takes_no_point_stops_nobody(tmp_path: Path, loop: Any) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    taking = Taking(blocked, loop)
    taking.take(1)
    assert taking.next.asked == []
    taking.step(100)
    assert not taking.points.may_keep
    assert held(taking.folder) == ()
