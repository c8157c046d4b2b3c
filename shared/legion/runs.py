"""Runs one after another: what is queued, what is under way, and what is left of those that are over."""

from typing import Annotated, Any, Literal

from pydantic import Field

from legion.config import RunConfig
from legion.ids import RunId
from legion.messages import Message, RunPhase
from legion.reports import LossCurve, TextSample

RunState = Literal["active", "queued", "over"]


class KeptCheckpoint(Message):
    """The last one of a run that is over."""

    step: int
    weights_digest: str | None
    files: tuple[str, ...] = ()  # of the assembled folder: GET /runs/{run_id}/checkpoint/{name}


class RunSummary(Message):
    """One line of the list."""

    run_id: RunId
    state: RunState
    phase: RunPhase | None = None  # None: it is queued
    place: int | None = None  # in the queue, from 1
    begun_at: float | None = None  # s since 1970; when the first members trained
    ended_at: float | None = None
    steps: int  # of the whole run
    step: int = 0  # committed
    tokens: int = 0
    participants: int = 0  # workers with accepted tokens
    loss: float | None = None
    validation_loss: float | None = None


class RunsView(Message):
    """`over`: the newest first."""

    active: RunSummary
    queued: tuple[RunSummary, ...] = ()
    over: tuple[RunSummary, ...] = ()


class RunView(Message):
    """One run, whatever has become of it. Without curve and samples while it is active: /metrics has them."""

    summary: RunSummary
    config: RunConfig
    failure: str | None = None
    rounds: int | None = None  # committed; None: the run has none
    curve: LossCurve | None = None
    samples: tuple[TextSample, ...] = ()  # the newest first
    checkpoint: KeptCheckpoint | None = None


class QueueChange(Message):
    """`config`: a part of the configuration. `place`: in the queue, from 1; behind the last is the last."""

    config: dict[str, Any] | None = None
    place: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
