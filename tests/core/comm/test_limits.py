"""Real bytes over mutual TLS on loopback, through lines with a limit; their time passes only while somebody waits."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from meeting import DIGEST, Meeting, meeting, noise
from paced import FakeTime, RecordingValve
from tls_members import Node, joined, open_unit

from legion.comm.api import Batches, Usage
from legion.comm.line import Line
from legion.comm.member import Member
from legion.comm.rounds import RoundLinks
from legion.ids import Rank, Step, UnitId
from legion.layout import CHUNK, Layout

RATE = 100_000  # bytes/s
SIZE = 1_500_011
LAYOUT = Layout((600 * CHUNK,), (1, 1))


class Lines:
    """A limited line for who calls and one for who is called, each with a time of its own."""

    def __init__(self, meet: Meeting, **limited: int) -> None:
        self.time = FakeTime()
        self.valves = {
            name: self.time.valve(limited.get(name))
            for name in ("caller_up", "caller_down", "called_up", "called_down")
        }
        meet.links = RoundLinks(
            meet.caller.identity, meet.usage, Line(self.valves["caller_up"], self.valves["caller_down"])
        )
        meet.called.network.rounds.line = Line(self.valves["called_up"], self.valves["called_down"])


async def part(meet: Meeting) -> None:
    await meet.send(noise(SIZE))
    assert meet.desk.taken[0][2] == noise(SIZE)


async def update(meet: Meeting) -> None:
    meet.desk.updates[DIGEST] = noise(SIZE)
    assert await meet.fetch(DIGEST, SIZE) == noise(SIZE)


@pytest.mark.parametrize(
    ("what", "name"), [(part, "caller_up"), (part, "called_down"), (update, "called_up"), (update, "caller_down")]
)
async def test_parts_and_updates_keep_to_the_limit(
    tmp_path: Path, what: Callable[[Meeting], Awaitable[None]], name: str
) -> None:
    async with meeting(tmp_path) as meet:
        lines = Lines(meet, **{name: RATE})
        try:
            await what(meet)
        finally:
            await meet.links.close()
        valve = lines.valves[name]
        assert SIZE <= valve.passed_bytes <= SIZE + 2000
        largest = max(size for _, size in valve.log)
        lines.time.assert_kept(valve, RATE, largest=largest)
        if name.endswith("up"):
            assert largest <= RATE // 4 + 100, "cut to a burst: the line never bears more at once"
        assert lines.time.now() >= (SIZE - largest) / RATE


async def test_what_leaves_passes_once_and_is_counted_on_both_sides(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        lines = Lines(meet)
        try:
            await part(meet)
            await update(meet)
        finally:
            await meet.links.close()
        valves = lines.valves
        assert valves["caller_up"].passed_bytes == valves["called_down"].passed_bytes == meet.usage.sent_bytes
        assert valves["called_up"].passed_bytes == valves["caller_down"].passed_bytes == meet.usage.received_bytes


async def test_an_update_waits_behind_nobody_for_ever(tmp_path: Path) -> None:
    """A part and an update at the same limited uplink: both arrive, and together keep to the limit."""
    async with meeting(tmp_path) as meet:
        time = FakeTime()
        line = Line(time.valve(RATE), time.valve())
        back = RoundLinks(meet.called.identity, Usage(), line)  # the one who is called sends a part too
        meet.called.network.rounds.line = line
        meet.caller.network.rounds.desk = meet.desk
        meet.desk.known.add(meet.called.identity.worker_id)
        meet.desk.updates[DIGEST] = noise(SIZE)
        try:
            answering = Meeting(meet.called, meet.caller, meet.desk, back, Usage())
            await asyncio.gather(update(meet), answering.send(noise(SIZE)))
        finally:
            await back.close()
        upload = recording(line.upload)
        time.assert_kept(upload, RATE, largest=RATE // 4 + 100)
        assert upload.passed_bytes >= 2 * SIZE


def recording(valve: object) -> RecordingValve:
    assert isinstance(valve, RecordingValve)
    return valve


def limited(node: Node, time: FakeTime, *, up: int | None, down: int | None) -> Member:
    node.member.line = Line(time.valve(up), time.valve(down))
    return node.member


async def test_weights_and_gradients_keep_to_the_limit(tmp_path: Path) -> None:
    async with joined(tmp_path, LAYOUT) as nodes:
        time = FakeTime()
        first, second = limited(nodes[0], time, up=RATE, down=None), limited(nodes[1], time, up=None, down=RATE)
        out = np.empty(600 * CHUNK, dtype=np.float32)
        mine = np.arange(300 * CHUNK, dtype=np.float32)
        for node in nodes:
            node.member.shelf.put(Step(0), UnitId(0), mine)
        await second.gather(Step(0), UnitId(0), out)
        assert np.array_equal(out[: 300 * CHUNK], mine)
        into = open_unit(nodes[1], 1)
        open_unit(nodes[0], 1)
        await first.scatter(Step(0), Batches((0,), 10), UnitId(0), out)
        await second.mailbox.complete(Step(0), UnitId(0))
        assert np.array_equal(into, mine)
        sent = 2 * mine.nbytes
        for valve in (recording(first.line.upload), recording(second.line.download)):
            assert sent <= valve.passed_bytes <= sent * 1.001
            time.assert_kept(valve, RATE, largest=max(size for _, size in valve.log))
        assert time.now() >= (sent - (1 << 22)) / RATE


async def test_questions_are_counted_and_never_wait(tmp_path: Path) -> None:
    async with joined(tmp_path, LAYOUT) as nodes:
        time = FakeTime()
        leader, other = limited(nodes[0], time, up=1, down=1), limited(nodes[1], time, up=1, down=1)
        assert await other.links[Rank(0)].claim(Step(0), 0, 4) == 0
        assert await other.links[Rank(0)].claim(Step(0), 1, 4) == 1
        assert time.now() == 0.0
        assert 0 < other.line.upload.passed_bytes == leader.line.download.passed_bytes
        assert 0 < leader.line.upload.passed_bytes == other.line.download.passed_bytes
