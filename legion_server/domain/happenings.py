"""What a decision announces: the facts for everybody, and those that only authenticated callers see."""

from dataclasses import dataclass, field
from typing import Any

from legion.messages import EventType
from legion.reports import StepRecord, StepSummary


@dataclass(frozen=True, slots=True)
class Happening:
    """An event before it has a number. `private` names workers or computers; anonymous callers never see it."""

    type: EventType
    data: dict[str, Any] = field(default_factory=dict)
    private: dict[str, Any] = field(default_factory=dict)


def of_step(record: StepRecord) -> Happening:
    """A committed step, as pages and watchers are told of it."""
    summary = StepSummary(
        step=record.step,
        loss=record.loss,
        grad_norm=record.grad_norm,
        lr=record.lr,
        tokens=record.step_tokens,
        tokens_per_s=record.step_tokens / record.step_s if record.step_s > 0 else 0.0,
    )
    return Happening("step", summary.model_dump())
