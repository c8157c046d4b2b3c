"""Records that outlive the agent: whatever is killed, with -9, each is in the run's figures once."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.errors import LegionError
from legion.ids import Epoch, RunId
from legion.messages import PROTOCOL, Heartbeat
from legion.reports import EvaluationRecord, TextSample
from legion_client.agent import backoff, outbox
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.outbox import Outbox
from legion_client.agent.unsent import Unsent, Waiting, unsent_at
from tests.client.agent.relaying import WITHIN_S, TwoClusters, Worker, two_clusters
from tests.client.agent.scripted_engine import step_record

RunningServer = Any  # see conftest


def evaluated(step: int) -> EvaluationRecord:
    return EvaluationRecord(step=step, loss=2.0, tokens=10)


waiting = st.tuples(
    st.integers(0, 9).map(Epoch),
    st.one_of(
        st.integers(1, 99).map(step_record),
        st.integers(1, 99).map(evaluated),
        st.builds(TextSample, step=st.integers(1, 99), text=st.text(min_size=1, max_size=9)),
    ),
)


@given(st.lists(waiting, max_size=9), st.lists(waiting, max_size=9), st.integers(0, 40))
def test_what_was_added_is_found_again_but_for_a_line_that_was_cut(
    tmp_path_factory: pytest.TempPathFactory, before: list[Waiting], after: list[Waiting], cut: int
) -> None:
    path = tmp_path_factory.mktemp("unsent") / "state" / "unsent.jsonl"
    unsent = Unsent(path)
    for each in before:
        unsent.add(each)
    unsent.replace(after)
    for each in before:
        unsent.add(each)
    assert Unsent(path).read() == after + before
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    found = Unsent(path).read()
    assert found == (after + before)[: len(found)]
    assert len(found) >= len(after + before) - (cut > 1), "lines have more than forty letters"


def test_only_what_waits_for_this_run_is_kept(tmp_path: Path) -> None:
    for run in ("run-1", "run-2"):
        unsent_at(tmp_path, RunId(run)).add((Epoch(1), evaluated(1)))
    assert unsent_at(tmp_path, RunId("run-2")).read() == [(Epoch(1), evaluated(1))]
    assert unsent_at(tmp_path, RunId("run-1")).read() == []


def test_a_disk_that_takes_nothing_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    unsent = Unsent(tmp_path / "file" / "unsent.jsonl")
    for step in range(1, 5):
        unsent.add((Epoch(1), evaluated(step)))
    assert unsent.read() == []
    assert caplog.text.count("records cannot be kept") == 1


# With a real server.


class Run(TwoClusters):
    """With what is done in it."""

    @contextlib.asynccontextmanager
    async def training(self) -> AsyncIterator[tuple[Worker, Worker]]:
        async with contextlib.AsyncExitStack() as stack:
            workers = []
            for folder, enrolment in zip(self.folders, self.enrolments, strict=True):
                server = Coordinator(enrolment.base_url, enrolment.context, enrolment.worker_id, enrolment.token)
                workers.append(Worker(await stack.enter_async_context(server), folder))
            for worker in workers * 2:  # ready, then training
                await worker.beat()
            yield workers[0], workers[1]

    def stored(self) -> list[tuple[int, int]]:
        """Step and epoch of every record that the server keeps, repetitions and all."""
        with closing(sqlite3.connect(self.server.data_dir / "legion.db")) as database:
            return sorted(database.execute("SELECT step, epoch FROM step_records").fetchall())


@pytest.fixture
def run(tmp_path: Path, running_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(backoff, "LONGEST_S", 0.2)
    monkeypatch.setattr(outbox, "BATCH_S", 0.05)
    with two_clusters(tmp_path, running_server, steps=40) as made:
        yield Run(made.server, made.folders, made.enrolments)


async def sent(box: Outbox) -> None:
    """Everything that waits, by the box's own task."""
    task = asyncio.create_task(box.send_records())
    async with asyncio.timeout(WITHIN_S):
        await box.drained()
    task.cancel()
    await asyncio.wait([task])


async def test_server_and_agent_are_killed_and_every_record_is_there_once(run: Run) -> None:
    path = run.folders[0] / "unsent.jsonl"
    async with run.training() as (first, _second):
        epoch = (await first.server.plan()).epoch
        box = Outbox(first.server, Unsent(path))
        box.add_record(epoch, step_record(1))
        await sent(box)
        assert path.read_text() == ""
        # An answer that is lost: the server has it, and the agent is killed before it knows.
        box.add_record(epoch, step_record(2))
        lost_answer = path.read_bytes()
        await sent(box)
        path.write_bytes(lost_answer)
        await asyncio.to_thread(run.server.kill)
        box = Outbox(first.server, Unsent(path))
        trying = asyncio.create_task(box.send_records())
        box.add_record(epoch, step_record(3))
        with pytest.raises(LegionError):
            await first.beat()
        trying.cancel()  # killed in the middle of its tries; nothing of it is left but the file
        await asyncio.wait([trying])
        box = Outbox(first.server, Unsent(path))
        box.add_record(epoch, step_record(4))
        waits = asyncio.create_task(sent(box))
        await asyncio.to_thread(run.server.start)
        await waits
        assert path.read_text() == ""
    assert run.stored() == [(step, epoch) for step in (1, 2, 3, 4)]


async def test_records_of_a_plan_that_the_server_gave_up_meanwhile_are_taken(run: Run) -> None:
    """Its agent was killed: the next one says `joining`, so that its cluster has ended before the records arrive."""
    path = run.folders[0] / "unsent.jsonl"
    async with run.training() as (first, second):
        epoch, foreign = (await first.server.plan()).epoch, (await second.server.plan()).epoch
        assert epoch != foreign
        box = Outbox(first.server, Unsent(path))
        for told, step in ((epoch, 1), (epoch, 2), (foreign, 1), (Epoch(77), 2)):
            box.add_record(told, step_record(step))
        reply = await first.server.heartbeat(Heartbeat(protocol=PROTOCOL, state="joining", epoch=Epoch(0)))
        assert reply.epoch == 0
        await sent(Outbox(first.server, Unsent(path)))
    assert run.stored() == [(1, epoch), (2, epoch)], "and nothing in the name of another cluster"
