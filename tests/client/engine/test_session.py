"""One membership, in this process: what it accepts, what it reports, and what the others hear when it fails."""

import asyncio
import queue
import threading
from pathlib import Path

import pytest
import torch
from identities import issue

from legion.checkpoint.shards import read_info
from legion.codec.on_device import OnDevice
from legion.codec.registry import by_name
from legion.config import config_digest
from legion.errors import CheckpointInvalid, LegionError, PeerLost, RunError, StorageFailed, Unusable
from legion.identity import Identity
from legion.layout import Layout
from legion.messages import Endpoint, Member, Message, ModelShape, Plan, TensorShape, UnitShape
from legion_client.engine.compute_thread import on_compute_thread
from legion_client.engine.protocol import Evaluated, Listening, Pause, Prepare, SliceWritten, StepDone, Train, Wrote
from legion_client.engine.session import Session
from tests.client.engine.engine_processes import EPOCH, RUN, Dataset, plan_with, with_config


class Local:
    """A session and all that it reported."""

    def __init__(self, folder: Path, identity: Identity, data: Dataset, *, work_dir: Path | None = None) -> None:
        self.identity, self.data = identity, data
        self.reports: list[Message] = []
        identity.save(folder)
        command = Prepare(
            config=data.config,
            manifest=data.manifest,
            identity_dir=folder,
            cache_dir=data.folder,
            work_dir=work_dir or folder,
        )
        self.session = Session(command, self.reports.append)

    @property
    def listening(self) -> Listening:
        [found] = [report for report in self.reports if isinstance(report, Listening)]
        return found

    def kinds(self) -> list[type[Message]]:
        return [type(report) for report in self.reports]


def plan_for(*members: Local, first_step: int = 0) -> Plan:
    entries = tuple(
        Member(
            worker_id=member.identity.worker_id,
            endpoint=Endpoint(host="127.0.0.1", port=member.listening.port),
            share=1 + rank,
        )
        for rank, member in enumerate(members)
    )
    return plan_with(entries, members[0].listening.shape, members[0].data, first_step)


@pytest.fixture
def short(text_data: Dataset) -> Dataset:
    return with_config(text_data, steps=3, checkpoint={"every_steps": 2})


def test_contributions_are_encoded_on_a_card_unless_its_memory_was_asked_for(
    tmp_path: Path, short: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = with_config(short, cluster={"policy": "solo", "claims": "dynamic"}, rounds={"steps": 1})
    session = Local(tmp_path, issue(tmp_path / "authority", 1)[0], rounds).session
    codec = by_name("int4")
    assert session._encoder_of_contributions(codec) is codec
    monkeypatch.setattr(session, "_device", torch.device("cuda"))
    assert isinstance(session._encoder_of_contributions(codec), OnDevice)
    session.pause(Pause(reason="a game runs", serves=True))
    assert session._encoder_of_contributions(codec) is codec
    session.resume()
    assert isinstance(session._encoder_of_contributions(codec), OnDevice)


async def test_alone_from_theta_0_to_the_end(tmp_path: Path, short: Dataset) -> None:
    alone = Local(tmp_path, issue(tmp_path / "authority", 1)[0], short)
    await alone.session.prepare()
    assert alone.session.steps_done == 0
    assert await alone.session.train(Train(plan=plan_for(alone))) == 3
    step = [StepDone]
    assert alone.kinds() == [Listening, *step * 2, SliceWritten, *step, Wrote, Evaluated, SliceWritten]
    assert alone.session.steps_done == alone.session.steps == 3
    last = alone.reports[-1]
    assert isinstance(last, SliceWritten)
    info, elements = read_info(last.path)
    assert (info.run_id, info.step, info.rank, info.epoch) == (RUN, 3, 0, EPOCH)
    assert elements == Layout(alone.listening.shape.sizes, (1,)).total


async def test_told_to_stop_before_it_begins(tmp_path: Path, short: Dataset) -> None:
    alone = Local(tmp_path, issue(tmp_path / "authority", 1)[0], short)
    await alone.session.prepare()
    alone.session.stop()
    assert await alone.session.train(Train(plan=plan_for(alone))) == 0
    assert alone.kinds() == [Listening]


async def refused(local: Local, command: Train) -> LegionError:
    with pytest.raises(LegionError) as caught:
        await local.session.train(command)
    return caught.value


async def test_plans_that_do_not_fit_are_refused(tmp_path: Path, short: Dataset) -> None:
    ours, other = issue(tmp_path / "authority", 2)
    local = Local(tmp_path, ours, short)
    await local.session.prepare()
    plan = plan_for(local)
    shape = ModelShape(units=(UnitShape(name="all", tensors=(TensorShape(name="w", shape=(9000,)),)),))
    stranger = plan.members[0].model_copy(update={"worker_id": other.worker_id})
    wrong = {
        "another shape": plan.model_copy(update={"shape": shape}),
        "another configuration": plan.model_copy(
            update={"config_digest": config_digest(with_config(short, seed=9).config)}
        ),
        "this worker as a member": plan.model_copy(update={"members": (stranger,)}),
    }
    for says, bad in wrong.items():
        error = await refused(local, Train(plan=bad))
        assert isinstance(error, RunError)
        assert says in str(error)
    assert local.session.member is None  # nobody was let in by a plan that was refused
    assert await local.session.train(Train(plan=plan)) == 3


async def test_slices_that_do_not_fit_are_refused(tmp_path: Path, short: Dataset) -> None:
    identity = issue(tmp_path / "authority", 1)[0]
    first = Local(tmp_path, identity, short)
    await first.session.prepare()
    await first.session.train(Train(plan=plan_for(first)))
    slice_of_2, slice_of_3 = (report for report in first.reports if isinstance(report, SliceWritten))

    async def attempt(path: Path) -> str:
        again = Local(tmp_path, identity, short)
        await again.session.prepare()
        error = await refused(again, Train(plan=plan_for(again, first_step=2), resume_slice=path))
        assert isinstance(error, CheckpointInvalid)
        assert StepDone not in again.kinds()
        return str(error)

    assert "is of step 3, the plan starts at step 2" in await attempt(slice_of_3.path)
    assert "cannot be read" in await attempt(tmp_path / "nowhere.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(slice_of_2.path.read_bytes()[:-4])
    assert "is not a whole slice" in await attempt(cut)


async def test_without_an_identity(tmp_path: Path, short: Dataset) -> None:
    command = Prepare(
        config=short.config,
        manifest=short.manifest,
        identity_dir=tmp_path,
        cache_dir=short.folder,
        work_dir=tmp_path,
    )
    with pytest.raises(Unusable, match="no identity"):
        Session(command, lambda _: None)


async def test_a_member_that_fails_says_why_to_the_others(tmp_path: Path, short: Dataset) -> None:
    """Its slice cannot be written. Nobody waits for it, and everybody knows what it was."""
    identities = issue(tmp_path / "authority", 3)
    no_folder = tmp_path / "a file"
    no_folder.write_text("")
    members = [
        Local(tmp_path / str(rank), identity, short, work_dir=no_folder if rank == 1 else None)
        for rank, identity in enumerate(identities)
    ]
    for member in members:  # one after the other: building models in several threads is not safe
        await member.session.prepare()
    plan = plan_for(*members)
    errors = await asyncio.gather(
        *(member.session.train(Train(plan=plan)) for member in members), return_exceptions=True
    )
    culprit = identities[1].worker_id
    assert isinstance(errors[1], StorageFailed)
    for rank in (0, 2):
        error, session = errors[rank], members[rank].session
        assert isinstance(error, PeerLost)
        assert f"{culprit} left: " in str(error)
        assert str(errors[1]) in str(error)
        assert session.member is not None
        assert session.member.changes.lost_peer in (culprit, identities[2 - rank].worker_id)


async def test_work_on_the_compute_thread_returns_or_raises() -> None:
    assert await on_compute_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await on_compute_thread(lambda: 1 // 0)


async def test_nobody_waits_for_a_compute_thread_that_hangs() -> None:
    """A daemon: it must not keep the process alive, nor complain when its answer comes too late."""
    started, gate, threads = threading.Event(), threading.Event(), list[threading.Thread]()

    def hang() -> None:
        threads.append(threading.current_thread())
        started.set()
        gate.wait()

    waiting = asyncio.ensure_future(on_compute_thread(hang))
    await asyncio.to_thread(started.wait)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    [thread] = threads
    assert thread.daemon
    gate.set()
    await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)  # the late answer is delivered, to nobody


@pytest.mark.parametrize("outcome", [None, ValueError("too late")])
def test_work_that_outlives_its_loop_ends_without_a_word(outcome: ValueError | None) -> None:
    """As in an engine that leaves in the middle of a step; the error of a thread would fail this test."""
    gate, threads = threading.Event(), queue.Queue[threading.Thread]()

    def work() -> None:
        threads.put(threading.current_thread())
        gate.wait()
        if outcome is not None:
            raise outcome

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(on_compute_thread(work), 0.01)

    asyncio.run(leave())
    gate.set()
    threads.get().join()
