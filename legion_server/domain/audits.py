"""Audits: some spans are combined by a second worker too, and two digests of one work are believed of neither. Pure.

An audited span goes without the reducer's residual, so whoever has the same parts makes the same bytes. What an audit
finds is a machine or a program that errs, and whoever lies always: plans say which spans are audited, so one that lies
in the others only is not found.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from legion.config import RoundsConfig, RunConfig
from legion.ids import WorkerId
from legion.messages import Plan
from legion.rounds import SpanPlan
from legion_server.domain.disputes import Dispute, agree, same_work
from legion_server.domain.happenings import Happening
from legion_server.domain.rounds import Outcome, Rounds, Turn, live_workers, published
from legion_server.domain.terms import handed_on, raised

FEWEST_CLUSTERS = 3  # reducer, auditor, and who decides between them
PATIENCE_ROUNDS = 0.1  # for an auditor, in measured rounds, after all else is done; at least the reducers' grace


def with_audits(
    spans: Sequence[SpanPlan],
    config: RunConfig,
    number: int,
    able: Sequence[WorkerId],
    clusters: Sequence[Plan],
    at: float,
) -> tuple[SpanPlan, ...]:
    """The spans of round `number`, some of them with an auditor of another cluster.

    Which ones, and whose turn it is, follows from the run's seed, the round, the span, and the moment `at` which the
    plan is made: that is nobody's to choose or to know before, and anybody can repeat the draw from the log. A reducer
    has another auditor every time, so that it can neither conspire with it nor be accused by one alone.
    """
    cluster_of = {member.worker_id: plan.cluster for plan in clusters for member in plan.members}
    if len(clusters) < FEWEST_CLUSTERS:
        return tuple(spans)
    found = []
    for place, span in enumerate(spans):
        drawn = hashlib.sha256(f"{config.seed} {number} {place} {at!r}".encode()).digest()
        reducer = span.reducers[0]
        others = sorted(worker for worker in able if cluster_of[worker] != cluster_of[reducer])
        if others and int.from_bytes(drawn[:8], "big") < config.rounds.audit * 2**64:
            auditor = others[int.from_bytes(drawn[8:16], "big") % len(others)]
            span = span.model_copy(update={"audited": True, "auditor": auditor})
        found.append(span)
    return tuple(found)


def judged(rounds: Rounds, clusters: tuple[Plan, ...], config: RoundsConfig, now: float) -> Outcome:
    """Audits that have both reports, or that are waited for no longer."""
    before = rounds.plan
    if before is None:
        return Outcome(rounds, [])
    live = live_workers(before, clusters)
    happenings: list[Happening] = []
    for span in range(len(before.spans)):
        turn = rounds.turns[span]
        if not rounds.awaits_audit(span) or turn.report is None:
            continue
        if turn.audit is None:
            rounds = _waited(rounds, span, live, config, now)
        elif agree(turn.report, turn.audit):
            rounds = _with(rounds, span, replace(turn, audited="passed")).counted(audits_passed=1)
        elif not same_work(turn.report, turn.audit):
            rounds = _with(rounds, span, replace(turn, audited="inconclusive")).counted(audits_inconclusive=1)
        else:
            outcome = _failed(rounds, span, live, now)
            rounds, happenings = outcome.rounds, happenings + outcome.happenings
    if rounds.plan is not None and rounds.plan is not before:
        changed = rounds.plan.model_copy(update={"revision": before.revision + 1})
        return Outcome(replace(rounds, plan=changed), [published(changed), *happenings])
    return Outcome(rounds, happenings)


def _waited(rounds: Rounds, span: int, live: Sequence[WorkerId], config: RoundsConfig, now: float) -> Rounds:
    """For an auditor that has not reported, once the reducer's update is in storage."""
    turn = rounds.turns[span]
    if not turn.done:
        return rounds
    assert rounds.plan is not None
    since = now if turn.awaited_since is None else turn.awaited_since
    patience_s = max(config.grace_s, PATIENCE_ROUNDS * (rounds.round_s or 0.0))
    if rounds.plan.spans[span].auditor in live and now - since < patience_s:
        return _with(rounds, span, replace(turn, awaited_since=since))
    return _with(rounds, span, replace(turn, audited="silent")).counted(audits_silent=1)


def _failed(rounds: Rounds, span: int, live: list[WorkerId], now: float) -> Outcome:
    """To a third worker. With nobody else left the reducer's update stands, so that the run goes on."""
    turn, plan = rounds.turns[span], rounds.plan
    assert plan is not None
    assert turn.report is not None
    assert turn.audit is not None
    auditor = plan.spans[span].auditor
    assert auditor is not None
    workers = rounds.reducer(span), auditor
    dispute = Dispute(turn.report, turn.audit, workers)
    rounds = rounds.counted(audits_failed=1)
    told = Happening("audit_failed", {"round": plan.round, "span": span}, {"worker_ids": list(workers)})
    if not set(live) - set(workers):
        return Outcome(_with(rounds, span, replace(turn, audited="failed")), [told])
    rounds = handed_on(rounds, span, live, Turn(now, dispute=dispute))
    return Outcome(rounds, [told, raised(rounds, span)])


def _with(rounds: Rounds, span: int, turn: Turn) -> Rounds:
    return replace(rounds, turns=(*rounds.turns[:span], turn, *rounds.turns[span + 1 :]))
