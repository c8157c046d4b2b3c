"""What is kept of checkpoints, and what contradicts them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.config import RunConfig
from legion.errors import CheckpointInvalid
from legion.ids import Epoch, Rank, RunId
from legion.messages import ModelShape, Plan, SliceRef, TensorShape, UnitShape
from legion_server.domain import checkpoints as cp
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.membership import Worker
from legion_server.domain.plan import make_plan

MakeWorker = Callable[..., Worker]


def a_plan(make_worker: MakeWorker, members: str = "ab") -> Plan:
    return make_plan(RunId("run-1"), RunConfig(), Epoch(1), 0, [make_worker(letter) for letter in members])


def ref(rank: int, content: str = "a") -> SliceRef:
    return SliceRef(rank=rank, sha256=content * 64, size_bytes=1)


def test_complete_with_the_last_slice_in_any_order(make_worker: MakeWorker) -> None:
    empty = cp.begin(RunId("run-1"), a_plan(make_worker), 5, 100)
    one = cp.with_slice(empty, ref(1), 100)
    assert not one.complete
    both = cp.with_slice(one, ref(0), 100)
    assert both.complete
    assert [entry.rank for entry in both.manifest.slices] == [0, 1]
    assert cp.with_slice(both, ref(0), 100) == both


def test_contradictions_are_refused(make_worker: MakeWorker) -> None:
    one = cp.with_slice(cp.begin(RunId("run-1"), a_plan(make_worker), 5, 100), ref(0), 100)
    with pytest.raises(CheckpointInvalid, match="already has another slice of rank 0"):
        cp.with_slice(one, ref(0, "b"), 100)
    with pytest.raises(CheckpointInvalid, match="rank 1 counts 99 tokens at step 5, the others 100"):
        cp.with_slice(one, ref(1), 99)


def test_a_slice_may_hold_weights_and_moments_of_its_elements(make_worker: MakeWorker) -> None:
    plan = a_plan(make_worker, "abc")
    for rank in range(3):
        assert cp.most_bytes(plan, Rank(rank)) > 4096 * 12


def stored(step: int, *, complete: bool, assembled: bool) -> Checkpoint:
    shape = ModelShape(units=(UnitShape(name="u", tensors=(TensorShape(name="t", shape=(1,)),)),))
    member = Plan.model_validate(
        {
            "run_id": "run-1",
            "epoch": 1,
            "members": [{"worker_id": "a" * 32, "endpoint": {"host": "h", "port": 1}, "share": 1}],
            "shape": shape,
            "first_step": 0,
            "config_digest": "0" * 64,
        }
    )
    empty = cp.begin(RunId("run-1"), member, step, 0)
    return replace(cp.with_slice(empty, ref(0), 0) if complete else empty, assembled=assembled)


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.sampled_from(["open", "complete", "assembled"])), unique_by=lambda e: e[0]
    ),
    st.integers(1, 4),
    st.booleans(),
)
def test_the_newest_finished_and_everything_newer_stay(
    entries: list[tuple[int, str]], keep: int, assembling: bool
) -> None:
    known = [stored(s, complete=how != "open", assembled=how == "assembled") for s, how in entries]
    gone = {c.step for c in cp.superfluous(known, keep, assembling=assembling)}
    finished = sorted((c.step for c in known if (c.assembled if assembling else c.complete)), reverse=True)
    kept_finished = [step for step in finished if step not in gone]
    assert kept_finished == finished[:keep]
    assert not gone or max(gone) < min(kept_finished)
    newest = cp.newest_complete({c.step: c for c in known})
    if finished:
        assert newest is not None
        assert newest.step not in gone
    else:
        assert not gone
