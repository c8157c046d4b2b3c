"""What members report of their training, and what the server makes of it: GET /metrics and /metrics/curve."""

from typing import Annotated

from pydantic import Field

from legion.counters import RoundsView
from legion.ids import Epoch, RunId, WorkerId
from legion.messages import Count, Message, RunPhase

MOST_TEXT = 2000  # characters of a sample
MOST_SAMPLES = 8  # in a report


class StepRecord(Message):
    """What one member saw in one step. Loss and norm are the cluster's, the rest is the member's own."""

    step: Annotated[int, Field(ge=0, le=2**31 - 1)]  # steps committed, this one included: from 1
    loss: float  # nats per token, mean over all tokens of the step
    grad_norm: float  # of the whole gradient, before clipping
    lr: float
    step_tokens: Count  # of all members
    tokens: Count  # of this member
    micro_batches: Count  # of this member
    step_s: float
    compute_s: float
    waiting_s: float  # for weights, gradients and votes
    sent_bytes: Count
    received_bytes: Count
    peak_rss_bytes: Count
    state_bytes: Count  # of this member's slice: weights, moments, gradient


class EvaluationRecord(Message):
    """Validation loss of the whole cluster after `step` steps."""

    step: Annotated[int, Field(ge=0, le=2**31 - 1)]
    loss: float  # nats per token
    tokens: Count


class TextSample(Message):
    """What the weights after `step` steps wrote as a new document. From a worker, so anybody's words."""

    step: Annotated[int, Field(ge=0, le=2**31 - 1)]
    text: Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]


class MetricsReport(Message):
    """From a worker, for itself: records not reported before. Delivery is at least once; (epoch, step) is the key."""

    epoch: Epoch
    steps: tuple[StepRecord, ...] = ()
    evaluations: tuple[EvaluationRecord, ...] = ()
    samples: Annotated[tuple[TextSample, ...], Field(max_length=MOST_SAMPLES)] = ()


class WorkerTotals(Message):
    """Sums over a run."""

    worker_id: WorkerId
    tokens: int
    micro_batches: int
    compute_s: float
    waiting_s: float
    sent_bytes: int
    received_bytes: int
    peak_rss_bytes: int
    state_bytes: int


class StepSummary(Message):
    step: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    tokens_per_s: float


class MetricsView(Message):
    """GET /metrics as JSON. `recent` is the tail of the run; ?since=STEP asks for more. Worker ids only for admins."""

    run_id: RunId
    phase: RunPhase
    step: int  # steps committed
    steps: int  # of the whole run
    tokens: int
    tokens_per_s: float
    recent: tuple[StepSummary, ...]
    evaluations: tuple[EvaluationRecord, ...]
    workers: tuple[WorkerTotals, ...]
    # Of the held-out files: nats per token under their own unigram and bigram statistics.
    unigram_entropy: float | None = None
    bigram_entropy: float | None = None
    failure: str | None = None
    rounds: RoundsView | None = None  # of a run whose clusters average by rounds
    workers_doubled: int = 0  # since the server started: programs that used the identity of another that was there


class CreditView(Message):
    """What one worker has been credited in a run; `rank` from 1 among `workers` with credit, None before any."""

    run_id: RunId
    tokens: int
    rank: int | None
    workers: int


class LossBucket(Message):
    """Steps that lie together: `loss` is their mean over tokens, between the least and the most of any cluster."""

    first: int  # step
    last: int
    tokens: int
    loss: float  # nats a token
    least: float
    most: float


class LossCurve(Message):
    """From the first step on. `width`: steps in a full bucket; 1, 2 or 5 times a power of 10."""

    run_id: RunId
    width: int
    training: tuple[LossBucket, ...]
    validation: tuple[EvaluationRecord, ...]
    sample: TextSample | None = None  # the newest
