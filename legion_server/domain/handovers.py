"""Reducers that leave in good order: what their updates had not held yet is with the next reducers. Pure."""

import contextlib
from dataclasses import replace

from legion.errors import ReportInvalid, RoundConflict
from legion.ids import WorkerId
from legion.rounds import HandedSpan, Handover, RoundPlan
from legion_server.domain.rounds import Rounds, Turn
from legion_server.domain.span_reports import Verdict


def accept(rounds: Rounds, worker: WorkerId, handover: Handover) -> Verdict:
    """RoundConflict or ReportInvalid as refusal: then nothing of it counts. A repetition changes nothing.

    An heir is one of the workers that the plan lists, so nobody chooses its successor. Of the round before, what no
    longer fits the plan is passed over: the worker has not heard of it.
    """
    try:
        plan = _current(rounds, handover)
        turns = list(rounds.turns)
        for handed in handover.spans:
            with contextlib.suppress(*(() if handover.round == plan.round else (RoundConflict,))):
                turns[handed.span] = _handed(plan, turns[handed.span], worker, handed)
    except RoundConflict as error:
        return Verdict(rounds.counted(conflicts=1), error)
    except ReportInvalid as error:
        return Verdict(rounds.counted(reports_refused=1), error)
    new = sum(after != before for after, before in zip(turns, rounds.turns, strict=True))
    return Verdict(replace(rounds, turns=tuple(turns)).counted(residuals_handed=new), accepted=new > 0)


def _current(rounds: Rounds, handover: Handover) -> RoundPlan:
    """What is left of a round waits for the next one, whose plan the worker may not have heard of."""
    plan = rounds.plan
    if plan is None or handover.round not in (plan.round, plan.round - 1):
        raise RoundConflict(f"round {handover.round} is handed over, round {rounds.committed} is being trained")
    spans = [handed.span for handed in handover.spans]
    if len(set(spans)) < len(spans) or max(spans, default=0) >= len(plan.spans):
        raise ReportInvalid(f"a handover of spans {spans}, the round has {len(plan.spans)}")
    return plan


def _handed(plan: RoundPlan, turn: Turn, worker: WorkerId, handed: HandedSpan) -> Turn:
    listed, where = plan.spans[handed.span].reducers, f"span {handed.span} of round {plan.round}"
    if handed.heir == worker or handed.heir not in listed:
        raise RoundConflict(f"{where}: {handed.heir} is not to reduce it")
    if worker == plan.reducer(handed.span):
        return replace(turn, handed=(worker, handed))
    if worker not in turn.left and (turn.handed is None or turn.handed[0] != worker):
        raise RoundConflict(f"{where}: this worker does not reduce it")
    # Its turn is over already.
    if handed.update is not None or handed.heir != plan.reducer(handed.span):
        return turn
    return replace(turn, left=tuple(other for other in turn.left if other != worker))
