"""Rounds between clusters: plans out, reports in, records committed. Pure: state and time in, state and records out.

Invariants: a span of the current round has one current term, and the digest accepted for it is of that term; a round
is committed once, when every span has a digest and the update of that name is in storage; a block is leased to one
cluster at a time. What the coordinator never sees is a tensor.

The design commits on digests alone. But a reducer that dies between its report and its upload would leave a record that
nobody can apply, and with it the run; the upload has to be made anyway, and clusters train on meanwhile.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from legion.config import RunConfig
from legion.counters import RoundCounters
from legion.ids import ClusterId, WorkerId
from legion.layout import spans
from legion.messages import ModelShape, Plan
from legion.rounds import (
    MOST_SPANS,
    Audit,
    HandedSpan,
    Inclusion,
    RootReport,
    RoundPlan,
    RoundRecord,
    SpanRecord,
    SpanReport,
)
from legion_server.domain import leases
from legion_server.domain.disputes import Dispute
from legion_server.domain.happenings import Happening
from legion_server.domain.leases import Pool, Ranges

SPANS_EACH = 4  # of a worker, at most, unless ...
SPAN_VALUES = 1 << 19  # ... they would have fewer elements than this: names and headers are to be small beside them
TRUSTED_AFTER = 20  # accepted rounds; before, a worker is a new identity
CONTRADICTED_BY = 2  # different workers, in audits that no third worker decided: then a worker reduces no more
# A reducer closes at the plan's deadline, then it still has to reduce and to say so.
PATIENCE = 1.25
SMOOTHING = 0.5  # of measured times and speeds: the weight of the newest


@dataclass(frozen=True, slots=True)
class Seat:
    """A cluster's place in the rounds."""

    first: int  # round
    leases: Mapping[int, Ranges] = field(default_factory=dict)  # by round, until settled in all spans
    included: tuple[int, ...] = ()  # per span: the newest round that has its contribution; first - 1: none
    early: Ranges = ()  # of the next lease, delivered before its round


@dataclass(frozen=True, slots=True)
class Turn:
    """One span on its way through a round."""

    since: float  # when the term, which the plan names, began
    report: SpanReport | None = None
    stored: bool = False  # its blob is in storage
    audit: SpanReport | None = None  # the auditor's
    audited: Audit | None = None  # what came of it; None: nothing yet, or no audit
    awaited_since: float | None = None  # the audit, after all else was done
    dispute: Dispute | None = None  # in a term before this one
    handed: tuple[WorkerId, HandedSpan] | None = None  # by the reducer, who leaves
    left: tuple[WorkerId, ...] = ()  # reducers before, whose residuals nobody has

    @property
    def done(self) -> bool:
        return self.report is not None and self.stored

    def is_handed_to(self, heir: WorkerId) -> bool:
        """Whether this worker, as the next reducer in the same round, has what waited with the one before."""
        return self.handed is not None and self.handed[1].heir == heir and self.handed[1].update is None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A root that was not the reference's."""

    round: int
    at: float  # s since 1970


@dataclass(frozen=True, slots=True)
class Awaited:
    """A committed update that is no longer in storage."""

    size_bytes: int
    round: int
    reducer: WorkerId
    since: float = 0.0  # noticed; s since 1970


@dataclass(frozen=True, slots=True)
class Rounds:
    """Everything about rounds but the log itself. `committed` is also the number of the round being trained."""

    shape: ModelShape
    bounds: tuple[tuple[int, int], ...]  # of the spans, in elements; fixed for the run
    reducers: tuple[WorkerId | None, ...]  # who reduced each span last
    plan: RoundPlan | None = None
    published_at: float | None = None  # None: the server was away meanwhile, nothing is measured
    turns: tuple[Turn, ...] = ()
    committed: int = 0
    total_tokens: int = 0
    seats: Mapping[ClusterId, Seat] = field(default_factory=dict)
    pool: Pool = field(default_factory=Pool)
    accepted: Mapping[WorkerId, int] = field(default_factory=dict)  # rounds
    speeds: Mapping[ClusterId, float] = field(default_factory=dict)  # tokens/s, as their step records say; not stored
    round_s: float | None = None
    counters: RoundCounters = field(default_factory=RoundCounters)
    awaited: Mapping[str, Awaited] = field(default_factory=dict)  # by digest
    first_record: int = 0  # the oldest that is kept
    anchored: int = -1  # the newest anchor that the assembler has; -1: none yet
    root: str | None = None  # of that anchor
    noticed: Mapping[WorkerId, int] = field(default_factory=dict)  # by anchor: whose counts up to it are in ours
    waiting_roots: Mapping[WorkerId, RootReport] = field(default_factory=dict)  # for the reference to be known
    mismatches: Mapping[WorkerId, tuple[Mismatch, ...]] = field(default_factory=dict)
    suspects: Mapping[WorkerId, tuple[WorkerId, ...]] = field(default_factory=dict)  # and whom their updates contradict
    broken_up_at: int = 0  # the round at whose start clusters were broken up for better ones, last

    @property
    def barred(self) -> frozenset[WorkerId]:
        """Who has lost the right to reduce: one liar among the others cannot bring that about."""
        return frozenset(worker for worker, others in self.suspects.items() if len(others) >= CONTRADICTED_BY)

    def reducer(self, span: int) -> WorkerId:
        """Of the current term."""
        assert self.plan is not None
        return self.plan.reducer(span)

    def awaits_audit(self, span: int) -> bool:
        """Whether something may still come of the span's audit."""
        return self.plan is not None and self.plan.spans[span].auditor is not None and self.turns[span].audited is None

    def counted(self, **more: int) -> "Rounds":
        """With these counters higher."""
        counts = {name: getattr(self.counters, name) + count for name, count in more.items()}
        return replace(self, counters=self.counters.model_copy(update=counts))


class Outcome(NamedTuple):
    rounds: Rounds
    happenings: list[Happening]
    record: RoundRecord | None = None


def span_count(total: int, workers: int) -> int:
    """Several for each worker, where they are not too small: the first update then leaves while parts still come."""
    return min(MOST_SPANS, workers * min(SPANS_EACH, max(1, total // (workers * SPAN_VALUES))))


def begin(shape: ModelShape, total: int, workers: int) -> Rounds:
    """Before the first round, with `workers` workers; `total`: elements of the flat space."""
    found = spans(total, span_count(total, workers))
    return Rounds(shape, tuple((b.start, b.stop) for b in found), (None,) * len(found))


def steps_of(config: RunConfig, number: int) -> int:
    """Steps of every cluster in this round; the last round may have fewer; 0: there is no such round."""
    return max(0, min(config.rounds.steps, config.steps - number * config.rounds.steps))


def step_at(config: RunConfig, number: int) -> int:
    """Of the run, at theta_number."""
    return min(number * config.rounds.steps, config.steps)


def with_patience(rounds: Rounds, now: float) -> Rounds:
    """After a restart: nobody could be heard while we were away, and the time is no measure of anything."""
    turns = tuple(
        replace(turn, since=now, awaited_since=None if turn.awaited_since is None else now) for turn in rounds.turns
    )
    return replace(rounds, published_at=None, turns=turns)


def measured(rounds: Rounds, cluster: ClusterId, tokens: int, took_s: float) -> Rounds:
    """With the speed that a cluster's step records say."""
    if took_s <= 0 or tokens <= 0:
        return rounds
    speed = _smoothed(rounds.speeds.get(cluster), tokens / took_s)
    return replace(rounds, speeds={**rounds.speeds, cluster: speed})


def stored(rounds: Rounds, digest: str) -> Rounds:
    """The blob with this digest has come into storage."""
    turns = tuple(replace(t, stored=t.stored or _digest(t) == digest) for t in rounds.turns)
    awaited = {name: blob for name, blob in rounds.awaited.items() if name != digest}
    return replace(rounds, turns=turns, awaited=awaited)


def missing(rounds: Rounds, record: RoundRecord, digests: Collection[str], now: float) -> Rounds:
    """These updates of a committed round are not in storage."""
    spans = {span.digest: span for span in record.spans if span.digest in digests}
    lacking = {d: Awaited(span.size_bytes, record.round, span.reducer, now) for d, span in spans.items()}
    return replace(rounds, awaited=lacking | dict(rounds.awaited))


def forgotten(rounds: Rounds, before: int) -> Rounds:
    """Records of rounds before this one are not kept any more."""
    awaited = {digest: blob for digest, blob in rounds.awaited.items() if blob.round >= before}
    return replace(rounds, first_record=before, awaited=awaited)


def without(rounds: Rounds, gone: ClusterId) -> Rounds:
    """What a cluster had leased and no round has counted goes back."""
    seat = rounds.seats.get(gone)
    if seat is None:
        return rounds
    return replace(
        rounds,
        seats={name: other for name, other in rounds.seats.items() if name != gone},
        speeds={name: speed for name, speed in rounds.speeds.items() if name != gone},
        pool=leases.give_back(rounds.pool, unused(seat, seat.leases)),
    )


def unused(seat: Seat, numbers: Collection[int]) -> Ranges:
    """What of the leases for these rounds no span has counted, and somebody else may train on."""
    newest = max(seat.included, default=seat.first - 1)
    held = [r for number in numbers if number > newest for r in seat.leases[number]]
    return leases.minus(held, seat.early)


def live_workers(plan: RoundPlan, clusters: tuple[Plan, ...]) -> list[WorkerId]:
    """Members of participants that are still there, in the plan's order."""
    there = {cluster.cluster: {m.worker_id for m in cluster.members} for cluster in clusters}
    return [m.worker_id for p in plan.participants for m in p.members if m.worker_id in there.get(p.cluster, ())]


def gone(plan: RoundPlan | None, clusters: tuple[Plan, ...]) -> tuple[ClusterId, ...]:
    """Participants of the plan that are no longer there, or no longer those that they were."""
    there = {(cluster.cluster, cluster.epoch) for cluster in clusters}
    return tuple(p.cluster for p in plan.participants if (p.cluster, p.epoch) not in there) if plan else ()


def published(plan: RoundPlan) -> Happening:
    return Happening(
        "round_plan",
        {
            "round": plan.round,
            "revision": plan.revision,
            "participants": len(plan.participants),
            "flush": plan.flush,
        },
    )


# Commit.


def commit(rounds: Rounds, now: float) -> Outcome:
    """The round's record once every span has its update; the next plan is for `round_plan.publish`."""
    plan = rounds.plan
    reports = [turn.report for turn in rounds.turns if turn.report is not None and turn.stored]
    if plan is None or len(reports) < len(plan.spans) or any(map(rounds.awaits_audit, range(len(plan.spans)))):
        return Outcome(rounds, [])
    record = _record(rounds, plan, reports, now)
    by_span = [{i.cluster: i for i in span.included} for span in record.spans]
    seats = {
        name: _settled(seat, record.round, [spans.get(name) for spans in by_span])
        for name, seat in rounds.seats.items()
    }
    included = {name for spans in by_span for name in spans}
    workers = [m.worker_id for p in plan.participants if p.cluster in included for m in p.members]
    took_s = None if rounds.published_at is None else now - rounds.published_at
    after = replace(
        rounds,
        plan=None,
        turns=(),
        reducers=tuple(map(_next_reducer, rounds.turns, record.spans)),
        suspects=_suspects(rounds),
        committed=plan.round + 1,
        total_tokens=record.total_tokens,
        seats={name: seat for name, (seat, _) in seats.items()},
        pool=leases.give_back(rounds.pool, [r for _, left in seats.values() for r in left]),
        accepted={**rounds.accepted, **{w: rounds.accepted.get(w, 0) + 1 for w in workers}},
        round_s=rounds.round_s if took_s is None else _smoothed(rounds.round_s, took_s),
    ).counted(
        empty_spans=sum(not span.included for span in record.spans),
        # Of a dispute, that of the reducer, or of the third.
        residuals_lost=sum(len(turn.left) + (turn.dispute is not None) for turn in rounds.turns),
    )
    public = {
        "round": record.round,
        "tokens": record.tokens,
        "total_tokens": record.total_tokens,
        "clusters": len(included),
    }
    return Outcome(after, [Happening("round", public)], record)


def _record(rounds: Rounds, plan: RoundPlan, reports: list[SpanReport], now: float) -> RoundRecord:
    tokens = max(sum(i.tokens for i in report.included) for report in reports)
    return RoundRecord(
        run_id=plan.run_id,
        round=plan.round,
        spans=tuple(
            SpanRecord.of(
                report,
                rounds.reducer(span),
                audit="failed" if turn.dispute else turn.audited,
                disputed=turn.dispute.workers if turn.dispute else (),
            )
            for span, (turn, report) in enumerate(zip(rounds.turns, reports, strict=True))
        ),
        bounds=rounds.bounds,
        flush=plan.flush,
        tokens=tokens,
        total_tokens=rounds.total_tokens + tokens,
        committed_at=now,
    )


def _confirmed(turn: Turn) -> WorkerId | None:
    """Of the two in a dispute, the one whose update the third made too."""
    return turn.dispute.confirmed(turn.report) if turn.dispute and turn.report else None


def _next_reducer(turn: Turn, span: SpanRecord) -> WorkerId:
    """Who has the span's residual. A reducer that was contradicted and then confirmed keeps its span."""
    confirmed = _confirmed(turn)
    if turn.dispute and confirmed == turn.dispute.workers[0]:
        return confirmed
    if turn.handed is not None and turn.handed[1].update in (None, span.digest):
        return turn.handed[1].heir
    return span.reducer


def _suspects(rounds: Rounds) -> Mapping[WorkerId, tuple[WorkerId, ...]]:
    suspects = dict(rounds.suspects)
    for turn in rounds.turns:
        for worker, other in (turn.dispute.workers, turn.dispute.workers[::-1]) if turn.dispute else ():
            if worker != _confirmed(turn) and other not in suspects.get(worker, ()):
                suspects[worker] = (*suspects.get(worker, ()), other)
    return suspects


def _settled(seat: Seat, committed: int, found: Sequence[Inclusion | None]) -> tuple[Seat, Ranges]:
    """The seat after the round, and the leased blocks that nobody will train on any more.

    A contribution stands for all that its cluster has trained since the one before: what it does not name of leases
    up to its round was not used.
    """
    if not any(found):
        return seat, ()
    named = leases.joined({r for blocks in {i.blocks for i in found if i} for r in blocks})
    included = tuple(committed if inclusion else before for inclusion, before in zip(found, seat.included, strict=True))
    kept = {n: leases.overlap(held, named) if n <= committed else held for n, held in seat.leases.items()}
    newest_before = max(seat.included)
    left = [
        r
        for number, held in seat.leases.items()
        if newest_before < number <= committed
        for r in leases.minus(held, (*named, *seat.early))
    ]
    after = replace(
        seat,
        included=included,
        leases={number: held for number, held in kept.items() if number > min(included)},
        early=leases.overlap(seat.leases.get(committed + 1, ()), named),
    )
    return after, tuple(left)


def _smoothed(before: float | None, newest: float) -> float:
    return newest if before is None else (1 - SMOOTHING) * before + SMOOTHING * newest


def _digest(turn: Turn) -> str | None:
    return turn.report.digest if turn.report else None
