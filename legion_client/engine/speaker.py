"""What a member's training tells its agent: records, and slices of checkpoints."""

from collections.abc import Callable
from pathlib import Path

from legion.checkpoint.shards import SliceInfo, write_slice
from legion.codec.api import Floats
from legion.comm.arrays import array_of
from legion.ids import Rank
from legion.messages import Message, Plan
from legion.reports import EvaluationRecord, StepRecord
from legion.zero.optimizers import Slice
from legion_client.engine.protocol import Evaluated, SliceWritten, StepDone

Report = Callable[[Message], None]


class Speaker:
    """See `loop.Listener`: on the compute thread, tells the agent and writes slices."""

    def __init__(self, plan: Plan, rank: Rank, slice_: Slice, work_dir: Path, report: Report) -> None:
        self._plan = plan
        self._rank = rank
        self._slice = slice_
        self._work_dir = work_dir
        self._report = report

    def step_done(self, record: StepRecord) -> None:
        self._report(StepDone(record=record))

    def evaluated(self, record: EvaluationRecord) -> None:
        self._report(Evaluated(record=record))

    def checkpoint_due(self, step: int, tokens: int) -> None:
        path = self._work_dir / f"step-{step}-rank-{self._rank}.safetensors"
        info = SliceInfo(run_id=self._plan.run_id, step=step, rank=self._rank, epoch=self._plan.epoch, tokens=tokens)
        written = write_slice(path, info, parts_of(self._slice))
        self._report(
            SliceWritten(
                step=step,
                rank=self._rank,
                tokens=tokens,
                path=path,
                sha256=written.sha256,
                size_bytes=written.size_bytes,
            )
        )


def parts_of(state: Slice) -> dict[str, list[Floats]]:
    """The slice as `checkpoint.shards` wants it: views, nothing copied."""
    return {
        "weights": [array_of(state.weights)],
        "exp_avg": [array_of(state.exp_avg)],
        "exp_avg_sq": [array_of(state.exp_avg_sq)],
    }
