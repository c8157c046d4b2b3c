"""Whose turn a span is: a reducer that is gone, silent or not believed hands it on to the next. Pure."""

from collections.abc import Collection
from dataclasses import replace

from legion.config import RoundsConfig
from legion.ids import WorkerId
from legion.messages import Plan
from legion.rounds import RoundPlan
from legion_server.domain.happenings import Happening
from legion_server.domain.rounds import PATIENCE, Outcome, Rounds, Turn, live_workers, published


def overdue(
    rounds: Rounds, clusters: tuple[Plan, ...], config: RoundsConfig, now: float, quiet: Collection[WorkerId] = ()
) -> Outcome:
    """Spans whose reducer is gone or silent, before its update is in storage, are the next one's.

    `quiet`: who has missed heartbeats, and is as good as gone while others are there.

    Silence may mean that the deadline, made of the rounds before, is too short for this one: the next term has twice
    the time, up to the configuration's bound.
    """
    plan = rounds.plan
    if plan is None:
        return Outcome(rounds, [])
    live = live_workers(plan, clusters)
    live = [worker for worker in live if worker not in quiet] or live
    if not live:
        return Outcome(rounds, [])
    there = set(live)
    happenings: list[Happening] = []
    limit_s = plan.deadline_s * PATIENCE + config.grace_s
    deadline_s = plan.deadline_s
    for span, turn in enumerate(rounds.turns):
        if turn.done:
            continue
        silent = now - turn.since > limit_s
        if rounds.reducer(span) not in there or silent:
            deadline_s = min(config.deadline_s, 2 * plan.deadline_s) if silent else deadline_s
            unaudited = plan.spans[span].auditor is not None
            rounds = handed_on(rounds, span, live, Turn(now, dispute=turn.dispute)).counted(
                undelivered=turn.report is not None,
                audits_silent=unaudited and turn.audited is None,
            )
            happenings.append(raised(rounds, span))
    if rounds.plan is not None and rounds.plan is not plan:
        changed = rounds.plan.model_copy(update={"revision": plan.revision + 1, "deadline_s": deadline_s})
        return Outcome(replace(rounds, plan=changed), [published(changed), *happenings])
    return Outcome(rounds, happenings)


def handed_on(rounds: Rounds, span: int, live: list[WorkerId], turn: Turn) -> Rounds:
    """The span is the next worker's, who takes its `turn`; the revision is the caller's."""
    assert rounds.plan is not None
    before, leaving, disputed = rounds.turns[span], rounds.plan.reducer(span), turn.dispute is not None
    avoided = rounds.barred.union(turn.dispute.workers if turn.dispute else ())
    plan = _next_term(rounds.plan, span, live, avoided)
    changed = plan.spans[span].model_copy(update={"auditor": None, "audited": disputed})
    plan = plan.model_copy(update={"spans": (*plan.spans[:span], changed, *plan.spans[span + 1 :])})
    known = disputed or before.is_handed_to(plan.reducer(span))
    turn = replace(turn, left=before.left if known else (*before.left, leaving))
    turns = (*rounds.turns[:span], turn, *rounds.turns[span + 1 :])
    return replace(rounds, plan=plan, turns=turns).counted(terms_raised=1)


def raised(rounds: Rounds, span: int) -> Happening:
    assert rounds.plan is not None
    public = {"round": rounds.plan.round, "span": span, "term": rounds.plan.term(span)}
    return Happening("round_term", public, {"reducer": rounds.reducer(span)})


def _next_term(plan: RoundPlan, span: int, live: list[WorkerId], avoided: Collection[WorkerId]) -> RoundPlan:
    """The span is the next one's in its list; whoever had it least often and has least to do, when all had it.

    Those to be avoided only where nobody else is left.
    """
    listed = plan.spans[span].reducers
    later = range(plan.term(span) + 1, len(listed))
    term = next((term for term in later if listed[term] in live and listed[term] not in avoided), len(listed))
    if term == len(listed):
        load = [plan.reducer(other) for other in range(len(plan.spans))]
        chosen = min(live, key=lambda w: (w in avoided, listed.count(w), load.count(w), w))
        longer = plan.spans[span].model_copy(update={"reducers": (*listed, chosen)})
        plan = plan.model_copy(update={"spans": (*plan.spans[:span], longer, *plan.spans[span + 1 :])})
    terms = [plan.term(other) for other in range(len(plan.spans))]
    terms[span] = term
    return plan.model_copy(update={"terms": tuple(terms)})
