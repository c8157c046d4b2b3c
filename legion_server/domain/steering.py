"""What the operator does with a run under way: pause it, let it go on, stop it. Pure.

A run that is paused loses nobody: members finish their round, or in a run without rounds their step, and wait. No round
is planned after the one under way, which is committed as any other.
"""

from dataclasses import replace

from legion.errors import RunError
from legion_server.domain import averaging, runs
from legion_server.domain.averaging import Moment
from legion_server.domain.clusters import Workers
from legion_server.domain.rounds import Rounds, with_patience
from legion_server.domain.runs import OVER, Outcome, Run, Stored, phase_of

PAUSABLE = frozenset({"waiting", "training"})


def pause(run: Run) -> Outcome:
    """RunError when nothing is left to train."""
    if run.phase == "paused":
        return run, []
    if run.phase not in PAUSABLE:
        raise RunError(f"the run is {run.phase}; there is nothing to pause", hint="GET /health says where it is.")
    after = replace(run, phase="paused", ready_since=None)
    return after, [phase_of(after)]


def go_on(run: Run, rounds: Rounds | None, workers: Workers, now: float, stored: Stored) -> Moment:
    """A paused run where it was; from its newest complete checkpoint, if a member that it needs has left meanwhile."""
    if run.config.in_rounds:
        after = replace(run, phase="waiting" if rounds is None else "training", breaking={})
        return Moment(after, with_patience(rounds, now) if rounds else None, happenings=[phase_of(after)])
    if run.plan is not None and runs.loss(run, run.plan, workers, stored) is not None:
        return averaging.resume(run, rounds, stored.newest_complete)
    after = replace(run, phase="waiting" if run.plan is None else "training")
    return Moment(after, rounds, happenings=[phase_of(after)])


def stop(run: Run) -> Outcome:
    """For good: its newest checkpoint is what it leaves. Also what failed, and will not be resumed."""
    if run.phase == "stopped":
        return run, []
    if run.phase in OVER - {"failed"}:
        raise RunError(f"the run is {run.phase}; there is nothing to stop", hint="GET /health says where it is.")
    after = replace(run, phase="stopped", plan=None, clusters=(), ready_since=None)
    return after, [phase_of(after)]
