"""What the run's state machine is told of checkpoints."""

from dataclasses import replace
from typing import Any

from legion.config import RunConfig
from legion.ids import Epoch, RunId
from legion.messages import SliceRef
from legion_server.domain import checkpoints as cp
from legion_server.domain.plan import make_plan
from legion_server.domain.runs import Run
from legion_server.service.state import State


def test_slices_of_another_epoch_count_only_if_all_are_there(make_worker: Any) -> None:
    run = Run(RunId("run-1"), RunConfig(), epoch=Epoch(1))
    last = run.config.steps
    plan = make_plan(run.run_id, run.config, run.epoch, 0, [make_worker("a"), make_worker("b")])
    half = cp.with_slice(cp.begin(run.run_id, plan, last, 1), SliceRef(rank=0, sha256="0" * 64, size_bytes=1), 1)
    whole = cp.with_slice(half, SliceRef(rank=1, sha256="1" * 64, size_bytes=1), 1)
    found = [
        State(replace(run, epoch=Epoch(epoch)), checkpoints={last: checkpoint}).stored(assembling=False)
        for epoch in (1, 2)
        for checkpoint in (half, whole)
    ]
    assert [stored.final_ranks for stored in found] == [{0}, {0, 1}, set(), {0, 1}]
    assert [stored.final_ready for stored in found] == [False, True, False, True]
