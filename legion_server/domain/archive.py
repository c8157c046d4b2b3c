"""What is left of a run that is over. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from legion.config import RunConfig
from legion.ids import RunId, WorkerId
from legion.messages import RunPhase
from legion.reports import LossCurve, TextSample
from legion.runs import KeptCheckpoint, RunSummary, RunView
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.membership import NO_EPOCH, Worker
from legion_server.domain.runs import Run

MOST_POINTS = 2000  # of a curve


@dataclass(frozen=True, slots=True)
class RunArchive:
    """`contributions`: accepted tokens by worker, which nobody but the admin sees."""

    run_id: RunId
    config: RunConfig
    phase: RunPhase
    failure: str | None  # without names
    begun_at: float | None
    ended_at: float
    step: int
    tokens: int
    rounds: int | None
    curve: LossCurve
    samples: tuple[TextSample, ...]
    contributions: Mapping[WorkerId, int]
    checkpoint: KeptCheckpoint | None

    @property
    def summary(self) -> RunSummary:
        training, validation = self.curve.training, self.curve.validation
        return RunSummary(
            run_id=self.run_id,
            state="over",
            phase=self.phase,
            begun_at=self.begun_at,
            ended_at=self.ended_at,
            steps=self.config.steps,
            step=self.step,
            tokens=self.tokens,
            participants=len(self.contributions),
            loss=training[-1].loss if training else None,
            validation_loss=validation[-1].loss if validation else None,
        )

    @property
    def view(self) -> RunView:
        return RunView(
            summary=self.summary,
            config=self.config,
            failure=self.failure,
            rounds=self.rounds,
            curve=self.curve,
            samples=self.samples,
            checkpoint=self.checkpoint,
        )


def kept(checkpoint: Checkpoint | None) -> KeptCheckpoint | None:
    if checkpoint is None:
        return None
    return KeptCheckpoint(
        step=checkpoint.step, weights_digest=checkpoint.weights_digest, files=tuple(sorted(checkpoint.files))
    )


def successor(before: Run, run_id: RunId, config: RunConfig) -> Run:
    """Epochs are counted on: what is told of a plan of the run before cannot be of this one."""
    return Run(run_id, config, epoch=before.epoch, before=before.epoch)


def heard_anew(worker: Worker) -> Worker:
    """Of another run, nothing that it said holds; it has not left."""
    return replace(
        worker,
        state="offline",
        endpoint=None,
        shape=None,
        config_digest=None,
        epoch=NO_EPOCH,
        step=0,
        dropped_epoch=max(worker.dropped_epoch, worker.epoch),
        lost_peer=None,
        failure=None,
        failure_message=None,
        anchor=-1,
        steps_ahead=0,
        broken=None,
        ready_at=None,
    )
