"""What the coordinator knows, and a draft of what it will know next."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from legion.config import RunConfig
from legion.ids import RunId, WorkerId
from legion.reports import MetricsReport
from legion.rounds import RoundPlan, RoundRecord
from legion_server.domain import averaging, credit, runs
from legion_server.domain import checkpoints as cp
from legion_server.domain.archive import RunArchive, heard_anew, successor
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.credit import RoundCredit
from legion_server.domain.happenings import Happening
from legion_server.domain.links import Links
from legion_server.domain.membership import Worker
from legion_server.domain.rounds import Rounds, with_patience
from legion_server.domain.runs import Run, Stored
from legion_server.service.events import Events
from legion_server.store.api import Change, Dataset, Loaded, Succession


@dataclass(frozen=True, slots=True)
class State:
    """One moment; replaced as a whole."""

    run: Run
    workers: Mapping[WorkerId, Worker] = field(default_factory=dict)
    checkpoints: Mapping[int, Checkpoint] = field(default_factory=dict)
    dataset: Dataset | None = None
    rounds: Rounds | None = None
    links: Links = field(default_factory=dict)

    def stored(self, *, assembling: bool) -> Stored:
        """What `runs.tick` asks about checkpoints."""
        newest = cp.newest_complete(self.checkpoints)
        final = self.checkpoints.get(self.run.config.steps)
        # Slices of another epoch are of no use to this one, unless all are there: then the run was resumed from them.
        if final is None or not (final.complete or final.manifest.epoch == self.run.epoch):
            return Stored(newest_complete=newest.step if newest else 0)
        return Stored(
            final_ranks=frozenset(ref.rank for ref in final.manifest.slices),
            final_ready=final.assembled if assembling else final.complete,
            newest_complete=newest.step if newest else 0,
        )


def state_of(loaded: Loaded, run: Run, now: float) -> State:
    """Everybody has new patience: nobody could be heard while we were away."""
    return State(
        run,
        {worker.worker_id: replace(worker, last_seen=now) for worker in loaded.workers},
        {checkpoint.step: checkpoint for checkpoint in loaded.checkpoints},
        loaded.dataset,
        with_patience(loaded.rounds, now) if loaded.rounds else None,
        loaded.links,
    )


def following(before: State, run_id: RunId, config: RunConfig, dataset: Dataset) -> State:
    """The run that takes the place of one that is over. Who is enrolled stays so, and says anew what it is."""
    workers = {w.worker_id: w if w.state == "revoked" else heard_anew(w) for w in before.workers.values()}
    return State(successor(before.run, run_id, config), workers, {}, dataset, None, before.links)


def begun(state: State, archive: RunArchive, events: Events, now: float) -> Change:
    """All of what `following` gives, for the store."""
    return Change(
        succession=Succession(archive, state.run.run_id),
        run=state.run,
        dataset=state.dataset,
        workers=tuple(state.workers.values()),
        events=events.number([runs.phase_of(state.run)], now),
        keep_events_after=events.keep_after,
    )


class Draft:
    """A state being changed. `change` is the difference to where it began, for the store."""

    def __init__(self, state: State, now: float) -> None:
        self._before = state
        self.now = now
        self.run = state.run
        self.workers = dict(state.workers)
        self.checkpoints = dict(state.checkpoints)
        self.dataset = state.dataset
        self.rounds = state.rounds
        self.links = state.links  # replaced, never changed
        self.records: list[RoundRecord] = []
        self.credit: RoundCredit | None = None
        self.forget_rounds_before: int | None = None
        self.report: tuple[WorkerId, MetricsReport] | None = None
        self.superseded_after: int | None = None
        self.happenings: list[Happening] = []

    @property
    def after(self) -> State:
        return State(self.run, self.workers, self.checkpoints, self.dataset, self.rounds, self.links)

    def put(self, worker: Worker) -> None:
        self.workers[worker.worker_id] = worker

    def say(self, happenings: Iterable[Happening]) -> None:
        self.happenings.extend(happenings)

    def go_back(self, step: int) -> None:
        """The run goes on from this step: what was reported of later ones is of a past that was given up."""
        self.superseded_after = step
        for unfinished in [later for later in self.checkpoints if later > step]:
            del self.checkpoints[unfinished]

    def settle(self, *, assembling: bool) -> None:
        """Let the run react to what changed."""
        stored = self.after.stored(assembling=assembling)
        if self.run.config.in_rounds:
            plan = self.rounds.plan if self.rounds else None
            moment = averaging.tick(self.run, self.rounds, self.workers, self.now, stored, self.links)
            if moment.record is not None and self.rounds is not None and plan is not None:
                self.credit = credit.of_round(plan, moment.record, self.rounds.shape.parameters, self.now)
            self.run, self.rounds, happenings = moment.run, moment.rounds, moment.happenings
            self.records += [moment.record] if moment.record else []
            for worker in moment.heard_anew:
                self.put(worker)
        else:
            had_plan = self.run.plan is not None
            self.run, happenings = runs.tick(self.run, self.workers, self.now, stored)
            if had_plan and self.run.plan is None:
                self.go_back(self.run.step)
        self.say(happenings)
        self.run = runs.timed(self.run, self.now)
        keep = self.run.config.checkpoint.keep
        for checkpoint in cp.superfluous(self.checkpoints.values(), keep, assembling=assembling):
            del self.checkpoints[checkpoint.step]

    @property
    def dropped(self) -> list[Checkpoint]:
        """Checkpoints whose files may go: deleted, or replaced by a resumed run's."""
        return [
            before
            for step, before in self._before.checkpoints.items()
            if step not in self.checkpoints or self.checkpoints[step].folder_name != before.folder_name
        ]

    def change(self, events: Events, *, whole: bool = False) -> Change | None:
        """None when nothing is worth saving. `whole`: all that is known now, whatever the store has."""
        before = State(self.run) if whole else self._before
        workers = tuple(w for w in self.workers.values() if _differs(before.workers.get(w.worker_id), w))
        checkpoints = tuple(c for c in self.checkpoints.values() if before.checkpoints.get(c.step) is not c)
        has_moved = _moved(before.rounds, self.rounds)
        change = Change(
            run=self.run if whole or self.run != before.run else None,
            dataset=self.dataset if self.dataset is not before.dataset else None,
            forget_dataset=self.dataset is None and self._before.dataset is not None,
            workers=workers,
            checkpoints=checkpoints,
            dropped_checkpoints=tuple(step for step in self._before.checkpoints if step not in self.checkpoints),
            report=self.report,
            superseded_after=self.superseded_after,
            rounds=self.rounds if has_moved else None,
            rounds_before=before.rounds if has_moved else None,
            records=tuple(self.records),
            plans=_changed_plan(before.rounds, self.rounds),
            credit=self.credit,
            links={pair: rows for pair, rows in self.links.items() if before.links.get(pair) is not rows},
            dropped_links=tuple(pair for pair in self._before.links if pair not in self.links),
            forget_rounds_before=self.forget_rounds_before,
            events=events.number(self.happenings, self.now),
            keep_events_after=events.keep_after,
        )
        return change if change != Change(keep_events_after=events.keep_after) else None


def _differs(before: Worker | None, after: Worker) -> bool:
    # When a worker was last heard is not worth a write: a restarted server gives everybody new patience anyway.
    return before is None or replace(before, last_seen=after.last_seen) != after


def _moved(before: Rounds | None, after: Rounds | None) -> bool:
    # Speeds are not stored.
    return after is not None and (before is None or replace(before, speeds=after.speeds) != after)


def _changed_plan(before: Rounds | None, after: Rounds | None) -> tuple[RoundPlan, ...]:
    plan = after.plan if after else None
    return () if plan is None or (before is not None and before.plan is plan) else (plan,)
