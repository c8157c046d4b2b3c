"""What workers and the coordinator tell one another about rounds: plans, reports and the log's records.

A round is H steps of every cluster from one anchor, then a compressed average. These messages name tensors only by
their digests; the values travel between workers.
"""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, PositiveInt
from pydantic import model_validator as check

from legion.config import Sha256
from legion.ids import ClusterId, Epoch, RunId, WorkerId
from legion.layout import CHUNK, Bounds, Layout
from legion.messages import Count, Member, Message, ModelShape

Round = Annotated[int, Field(ge=0, le=2**31 - 1)]
MOST_SPANS = 64
CONTRIBUTE_SHARE = 0.5  # of its deadline, that a round waits for contributions
# What came of comparing two workers' updates of a span. inconclusive: they had combined different contributions.
Audit = Literal["passed", "failed", "inconclusive", "silent"]


class Blocks(Message):
    """A half-open range of the run's blocks: a lease, or what was trained on of it."""

    start: Annotated[int, Field(ge=0, le=2**62)]
    stop: Annotated[int, Field(ge=0, le=2**62)]

    @check(mode="after")
    def _ordered(self) -> Self:
        if self.stop < self.start:
            raise ValueError("a range of blocks ends before it starts")
        return self

    def __len__(self) -> int:
        return self.stop - self.start

    def holds(self, other: "Blocks") -> bool:
        return not len(other) or (self.start <= other.start and other.stop <= self.stop)


class Participant(Message):
    """One cluster in a round. `members` in the order of its own plan, which `epoch` names."""

    cluster: ClusterId
    epoch: Epoch
    members: tuple[Member, ...]
    micro_batches: PositiveInt  # per step
    blocks: Blocks  # leased for this round's steps
    next_blocks: Blocks  # and for those that are done before the next plan is here
    earlier: tuple[Blocks, ...] = ()  # leased for rounds before, and not counted in all spans yet
    most_tokens: Count  # that count in the average, however many it names; 0: a newcomer, whose work is not taken yet

    def leased(self, blocks: Blocks) -> bool:
        """Whether they lie in one of its leases."""
        return any(lease.holds(blocks) for lease in (self.blocks, self.next_blocks, *self.earlier))

    def layout(self, shape: ModelShape) -> Layout:
        """Who of its members owns which elements."""
        return Layout(shape.sizes, tuple(member.share for member in self.members))


class SpanPlan(Message):
    """A range of the flat space and who may combine the contributions to it, in order: a term is an index here."""

    start: Annotated[int, Field(ge=0, multiple_of=CHUNK)]
    stop: Annotated[int, Field(gt=0, multiple_of=CHUNK)]
    reducers: Annotated[tuple[WorkerId, ...], Field(min_length=1)]
    audited: bool = False  # combined without the reducer's residual: whoever has the same parts makes the same update
    auditor: WorkerId | None = None  # combines it as well, for comparison; of the current term

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.start, self.stop)


class RoundPlan(Message):
    """What happens in a round. Published when the round before is committed.

    Times are durations from the moment a worker hears of the plan: clocks differ.
    """

    run_id: RunId
    round: Round  # the anchor it starts from is theta_round
    config_digest: Sha256
    shape: ModelShape
    steps: PositiveInt  # H
    first_step: Annotated[int, Field(ge=0)]  # of the run: where the learning-rate schedule stands at theta_round
    participants: Annotated[tuple[Participant, ...], Field(min_length=1)]
    spans: Annotated[tuple[SpanPlan, ...], Field(min_length=1)]
    revision: Annotated[int, Field(ge=0)] = 0  # grows when terms or reducers change within the round
    terms: tuple[Annotated[int, Field(ge=0)], ...] = ()  # the current term of each span; none given: 0
    regions: tuple[tuple[WorkerId, int], ...] = ()  # who is near whom, as far as it is measured; none of a single one
    flush: bool = False  # contributions are dense, and local weights become the new anchor
    contribute_s: float  # then a cluster sends what it has, however few steps that are
    deadline_s: float  # then a reducer closes with what it has

    @property
    def workers(self) -> dict[WorkerId, Member]:
        """Everybody in it, with where to reach them."""
        return {member.worker_id: member for participant in self.participants for member in participant.members}

    def term(self, span: int) -> int:
        return self.terms[span] if self.terms else 0

    def reducer(self, span: int) -> WorkerId:
        """Who combines the span in its current term."""
        return self.spans[span].reducers[self.term(span)]

    def participant(self, cluster: ClusterId) -> Participant | None:
        return next((p for p in self.participants if p.cluster == cluster), None)

    def of_worker(self, worker: WorkerId) -> Participant | None:
        return next((p for p in self.participants if any(m.worker_id == worker for m in p.members)), None)


class PartKey(Message):
    """What one member sends for one span. The values follow it: those of `Layout.fragments`, one after the other."""

    run_id: RunId
    round: Round
    span: Annotated[int, Field(ge=0)]
    cluster: ClusterId
    rank: Annotated[int, Field(ge=0)]
    codec: Annotated[int, Field(ge=0)]  # wire id
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256  # of the encoded values
    steps: PositiveInt  # that the contribution stands for
    tokens: Count  # of the whole cluster in those steps
    blocks: tuple[Blocks, ...]  # that the cluster trained on in those steps


class ResidualKey(Message):
    """What a reducer that leaves hands to the next one of its span: values that its updates have not held yet.

    `update`: they were dropped from this one, and count only if it is committed. They follow as int8.
    """

    run_id: RunId
    round: Round
    span: Annotated[int, Field(ge=0)]
    term: Annotated[int, Field(ge=0)]  # which was the sender's
    size_bytes: Annotated[int, Field(gt=0)]
    sha256: Sha256  # of the encoded values
    update: Sha256 | None = None


class HandedSpan(Message):
    """A span whose residual another worker has now; of `update`, if that is committed."""

    span: Annotated[int, Field(ge=0)]
    heir: WorkerId
    update: Sha256 | None = None


class Handover(Message):
    """From a worker that leaves: which of its residuals are not lost."""

    round: Round
    spans: Annotated[tuple[HandedSpan, ...], Field(max_length=MOST_SPANS)]


class UpdateKey(NamedTuple):
    """The update that a reducer makes of a span in a term; there is at most one, whose digest nobody knows before."""

    round: int
    span: int
    term: int


class Inclusion(Message):
    """A contribution that entered an update."""

    cluster: ClusterId
    parts: Annotated[tuple[Sha256, ...], Field(min_length=1)]  # in the order of ranks, of members whose slices meet
    tokens: Count  # counted, not claimed: its weight
    clip_scale: Annotated[float, Field(gt=0, le=1)] = 1.0  # what exceeds the median norm was dropped on purpose
    blocks: tuple[Blocks, ...] = ()


class SpanReport(Message):
    """From a span's reducer: the update is ready and served under its digest. Or from its auditor."""

    round: Round
    span: Annotated[int, Field(ge=0)]
    term: Annotated[int, Field(ge=0)]
    digest: Sha256  # of the blob
    size_bytes: Annotated[int, Field(gt=0)]
    included: tuple[Inclusion, ...]
    refused: dict[str, int] = Field(default_factory=dict)  # contributions turned away, by reason
    audit: bool = False  # from the span's auditor: its update is named for comparison, and nobody fetches it


class SpanRecord(Message):
    """One span of a committed round."""

    term: Annotated[int, Field(ge=0)]
    reducer: WorkerId
    digest: Sha256
    size_bytes: Annotated[int, Field(gt=0)]
    included: tuple[Inclusion, ...]
    audit: Audit | None = None  # of the span, if there was one
    disputed: tuple[WorkerId, ...] = ()  # reducer and auditor that disagreed, and are not believed

    @classmethod
    def of(
        cls,
        report: SpanReport,
        reducer: WorkerId,
        *,
        audit: Audit | None = None,
        disputed: tuple[WorkerId, ...] = (),
    ) -> Self:
        """What stays of a report that was accepted."""
        return cls(
            term=report.term,
            reducer=reducer,
            digest=report.digest,
            size_bytes=report.size_bytes,
            included=report.included,
            audit=audit,
            disputed=disputed,
        )

    def inclusion(self, cluster: ClusterId) -> Inclusion | None:
        return next((i for i in self.included if i.cluster == cluster), None)


class RoundRecord(Message):
    """One line of the log: theta_{round+1} = apply(theta_round, the spans' updates)."""

    run_id: RunId
    round: Round
    kind: Literal["update"] = "update"
    spans: tuple[SpanRecord, ...]
    bounds: tuple[tuple[int, int], ...]  # of the spans, in elements
    flush: bool = False
    tokens: Count  # counted, of all clusters; the largest of the spans'
    total_tokens: Count  # counted since the run began, this round included
    committed_at: float  # s since 1970
    root: Sha256 | None = None  # of theta_{round+1}, once the assembler has computed it


class RootReport(Message):
    """From a worker that has applied a round: the digest of its slice, by which its leaves in the whole are checked.

    `root` is `digest.root` over the leaves of the slice's chunks in the order of the slice; for a cluster of one that
    is the root of theta. Whoever holds all leaves and knows the cluster's layout computes the same.
    """

    round: Round  # theta_round is what it has now
    cluster: ClusterId
    rank: Annotated[int, Field(ge=0)]
    epoch: Epoch = Epoch(0)  # of the cluster's plan, by which the rank is; 0: of its only one
    root: Sha256
    # What the worker has met since its last report and no report of a span can tell.
    refused: dict[str, int] = Field(default_factory=dict)  # parts turned away, by reason
    damaged: Annotated[int, Field(ge=0)] = 0  # updates that came under another's name, and were fetched again


class RootReply(Message):
    """None: the reference is not known yet; the server compares once it is."""

    agrees: bool | None


class Standing(Message):
    """Where one cluster is; workers' ids only for admins."""

    cluster: ClusterId
    members: int
    anchor: int  # newest anchor it has reported; -1: none
    steps_ahead: int  # steps since that anchor's plan
    worker_ids: tuple[WorkerId, ...] = ()


class GlobalVersion(Message):
    """GET /training/global_version: where the run and everybody in it are."""

    run_id: RunId
    round: Round  # being trained
    anchor: Round  # newest committed: theta_anchor
    root: Sha256 | None  # of the newest anchor that the assembler has
    root_round: Round | None
    checkpoint_round: Round | None
    standings: tuple[Standing, ...]


class RoundsPage(Message):
    """GET /training/rounds: records from `since` on, oldest first, and where the log begins.

    `plans`: of the round after each record, and of `since` itself; the newest revision of each. A worker that has been
    away must know the plan of every round it passes through: the members of a cluster decide by plans alone.
    """

    first: Round  # oldest record that is kept
    records: tuple[RoundRecord, ...]
    plans: tuple[RoundPlan, ...] = ()
