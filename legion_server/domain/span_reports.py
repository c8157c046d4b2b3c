"""Whether a reducer's report is believed: it must fit the plan, the term and what is already known. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from legion.config import RunConfig
from legion.errors import LegionError, ReportInvalid, RoundConflict
from legion.ids import WorkerId
from legion.layout import Bounds, Layout
from legion.rounds import Inclusion, Participant, RoundPlan, SpanReport
from legion_server.domain import leases
from legion_server.domain.membership import printable
from legion_server.domain.rounds import Rounds

MOST_BYTES_PER_ELEMENT = 4  # of the widest update codec
HEADER_BYTES = 2**16
MOST_RANGES = 256  # of blocks in one contribution
MOST_REASONS = 32  # that are counted apart
LONGEST_REASON = 32  # characters
MOST_REFUSED = 10**6  # in one report, of one reason: what a worker claims must not drown the others' counts


class Verdict(NamedTuple):
    """`refusal`: what the sender is told; the counters in `rounds` are saved all the same."""

    rounds: Rounds
    refusal: LegionError | None = None
    accepted: bool = False  # new, not a repetition


def accept(rounds: Rounds, config: RunConfig, worker: WorkerId, report: SpanReport) -> Verdict:
    """The rounds with the report in them. RoundConflict or ReportInvalid as refusal; a repetition changes nothing."""
    try:
        plan = _current(rounds, worker, report)
        turn = rounds.turns[report.span]
        if report.audit:
            return _audited(rounds, config, plan, report)
        if turn.report is not None and turn.report.digest == report.digest:
            return Verdict(rounds)
        if turn.report is not None:
            return contradiction(rounds, report, turn.report.digest)
        counted, duplicates = _counted(rounds, config, plan, report)
    except RoundConflict as error:
        return Verdict(rounds.counted(conflicts=1), error)
    except ReportInvalid as error:
        return Verdict(rounds.counted(reports_refused=1), error)
    beyond = _tokens(report) - _tokens(counted)
    after = replace(turn, report=counted, stored=False, awaited_since=None)
    turns = (*rounds.turns[: report.span], after, *rounds.turns[report.span + 1 :])
    rounds = with_refused(rounds, report.refused).counted(
        duplicate_blocks=duplicates,
        uncounted_tokens=beyond,
        below_quorum=_weight(plan, counted) < config.rounds.quorum * sum(p.most_tokens for p in plan.participants),
    )
    return Verdict(replace(rounds, turns=turns), None, accepted=True)


def _audited(rounds: Rounds, config: RunConfig, plan: RoundPlan, report: SpanReport) -> Verdict:
    """What an auditor reports says nothing of what enters the anchor, only whether the reducer's update may."""
    turn = rounds.turns[report.span]
    if turn.audit is not None:
        same = turn.audit.digest == report.digest
        return Verdict(rounds) if same else contradiction(rounds, report, turn.audit.digest)
    counted, _ = _counted(rounds, config, plan, report)
    turns = (*rounds.turns[: report.span], replace(turn, audit=counted), *rounds.turns[report.span + 1 :])
    return Verdict(replace(with_refused(rounds, report.refused), turns=turns), None, accepted=True)


def _current(rounds: Rounds, worker: WorkerId, report: SpanReport) -> RoundPlan:
    plan = rounds.plan
    if plan is None or report.round != plan.round:
        raise RoundConflict(f"round {report.round} is reported, round {rounds.committed} is being trained")
    if report.span >= len(plan.spans):
        raise ReportInvalid(f"span {report.span} is reported, the round has {len(plan.spans)}")
    term = plan.term(report.span)
    if report.term != term:
        raise RoundConflict(f"term {report.term} of span {report.span} is reported, its term is {term}")
    role = "auditor" if report.audit else "reducer"
    asked = plan.spans[report.span].auditor if report.audit else plan.reducer(report.span)
    if asked != worker:
        raise RoundConflict(f"this worker is not the {role} of span {report.span} in term {term}")
    return plan


def contradiction(rounds: Rounds, report: SpanReport, known: str) -> Verdict:
    """For a reducer that has reported another digest, `known`, of the same span and term before."""
    refusal = RoundConflict(
        f"span {report.span} of round {report.round} has another digest already: {known[:12]}",
        hint="Two digests for one span and term: the reducer's hardware or software is suspect.",
    )
    return Verdict(rounds.counted(digests_differ=1), refusal)


def _counted(rounds: Rounds, config: RunConfig, plan: RoundPlan, report: SpanReport) -> tuple[SpanReport, int]:
    """The report with the tokens that count, and how many blocks it names that were delivered before.

    Without what it refused, which is counted elsewhere and may be long.
    """
    where = f"span {report.span} of round {report.round}"
    bounds, sizes = plan.spans[report.span].bounds, plan.shape.sizes
    participants = {participant.cluster: participant for participant in plan.participants}
    if report.size_bytes > len(bounds) * MOST_BYTES_PER_ELEMENT + HEADER_BYTES:
        raise ReportInvalid(f"{where}: an update of {len(bounds)} elements cannot have {report.size_bytes} bytes")
    names = [inclusion.cluster for inclusion in report.included]
    if len(set(names)) < len(names):
        raise ReportInvalid(f"{where}: a cluster is included twice")
    included, duplicates = [], 0
    for inclusion in report.included:
        participant = participants.get(inclusion.cluster)
        if participant is None:
            raise ReportInvalid(f"{where}: {inclusion.cluster} is no participant")
        _check_parts(sizes, bounds, participant, inclusion, where)
        new = _new_blocks(rounds, report.span, inclusion, where)
        duplicates += sum(len(named) for named in inclusion.blocks) - new
        tokens = min(inclusion.tokens, new * config.data.seq_len)
        included.append(inclusion.model_copy(update={"tokens": tokens}))
    return report.model_copy(update={"included": tuple(included), "refused": {}}), duplicates


@lru_cache(maxsize=4096)
def _meeting(sizes: tuple[int, ...], shares: tuple[int, ...], span: Bounds) -> int:
    """How many members of a cluster hold some of the span; clusters of one kind ask for the same in every round."""
    layout = Layout(sizes, shares)
    return sum(bool(layout.fragments(rank, span)) for rank in layout.ranks)


def _check_parts(
    sizes: tuple[int, ...], bounds: Bounds, participant: Participant, inclusion: Inclusion, where: str
) -> None:
    meeting = _meeting(sizes, tuple(member.share for member in participant.members), bounds)
    if len(inclusion.parts) != meeting:
        raise ReportInvalid(
            f"{where}: {inclusion.cluster} is included with {len(inclusion.parts)} parts, {meeting} members hold some"
        )
    if inclusion.tokens > participant.most_tokens:
        raise ReportInvalid(
            f"{where}: {inclusion.cluster} counts with {inclusion.tokens} tokens, at most {participant.most_tokens}"
        )


def _new_blocks(rounds: Rounds, span: int, inclusion: Inclusion, where: str) -> int:
    """How many of the named blocks were not delivered to this span before. ReportInvalid for blocks without a lease.

    What is new lies in the leases since the newest round that has a contribution of the cluster to this span.
    """
    if len(inclusion.blocks) > MOST_RANGES:
        raise ReportInvalid(f"{where}: {inclusion.cluster} names its blocks in {len(inclusion.blocks)} ranges")
    seat = rounds.seats[inclusion.cluster]  # every participant has one
    if leases.minus(inclusion.blocks, [r for ranges in seat.leases.values() for r in ranges]):
        raise ReportInvalid(f"{where}: {inclusion.cluster} names blocks that it has no lease for")
    since = [r for number, ranges in seat.leases.items() if number > seat.included[span] for r in ranges]
    return leases.count(leases.overlap(inclusion.blocks, leases.minus(since, seat.early)))


def _weight(plan: RoundPlan, report: SpanReport) -> int:
    included = {inclusion.cluster for inclusion in report.included}
    return sum(p.most_tokens for p in plan.participants if p.cluster in included)


def _tokens(report: SpanReport) -> int:
    return sum(inclusion.tokens for inclusion in report.included)


def with_refused(rounds: Rounds, refused: Mapping[str, int]) -> Rounds:
    """With these parts counted. Reasons are the reducers' own words: cut, and not endlessly many."""
    known = dict(rounds.counters.refused)
    for reason, count in refused.items():
        name = printable(reason, LONGEST_REASON)
        name = name if name in known or len(known) < MOST_REASONS else "other"
        known[name] = known.get(name, 0) + min(max(0, count), MOST_REFUSED)
    return replace(rounds, counters=rounds.counters.model_copy(update={"refused": known}))
