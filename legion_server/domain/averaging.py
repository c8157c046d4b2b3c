"""The life of a run whose clusters average by rounds. Pure: state and time in, the next state and happenings out.

waiting -> training -> finishing -> complete, as in `runs`; but a lost member ends its cluster, never the run. Training
ends with the last committed round; the run is complete when the last anchor is a checkpoint.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from legion.config import config_digest
from legion.errors import ConfigInvalid, StorageFailed
from legion.ids import Epoch
from legion.layout import Layout
from legion.messages import Plan, RunPhase
from legion.rounds import RoundRecord
from legion_server.domain import addresses, audits, breaking_up, clusters, recovery, round_plan, runs, silence, terms
from legion_server.domain import links as lk
from legion_server.domain import plan as plans
from legion_server.domain import rounds as rd
from legion_server.domain.clusters import Workers
from legion_server.domain.happenings import Happening
from legion_server.domain.links import Link, Links, Pair
from legion_server.domain.membership import Worker
from legion_server.domain.places import Places, places
from legion_server.domain.rounds import Rounds
from legion_server.domain.runs import Failure, Run, Stored

NO_LINKS: Links = {}


@dataclass(slots=True)
class Moment:
    """What the steps of one tick change, one after another."""

    run: Run
    rounds: Rounds | None
    links: Links = field(default_factory=dict)  # as they are
    happenings: list[Happening] = field(default_factory=list)
    record: RoundRecord | None = None
    heard_anew: list[Worker] = field(default_factory=list)  # must say again that they are ready

    @property
    def over(self) -> bool:
        """Whether every round is committed."""
        return self.rounds is not None and self.rounds.committed >= self.run.config.round_count

    def taking(self, outcome: rd.Outcome) -> None:
        self.rounds = outcome.rounds
        self.happenings += outcome.happenings
        self.record = outcome.record or self.record


def tick(
    run: Run, rounds: Rounds | None, workers: Workers, now: float, stored: Stored, links: Links = NO_LINKS
) -> Moment:
    """The next state. Calling it again at the same time with its own result changes nothing."""
    moment = Moment(run, rounds, links)
    if run.phase == "waiting":
        _start(moment, workers, now, stored)
    elif run.phase in ("training", "paused", "finishing") and stored.final_ready:
        _enter(moment, "complete")
    elif run.phase == "paused":
        _commit(moment, now)
    elif run.phase == "training":
        _regroup(moment, workers, now)
        _lose(moment, workers)
        _follow(moment, workers)
        _grow(moment, workers, now, stored)
        _advance(moment, workers, now)
    return moment


def resume(run: Run, rounds: Rounds | None, checkpoint_step: int) -> Moment:
    """Back to waiting, the log kept: clusters start from the checkpoint and replay. After the last round: finishing."""
    after, happenings = runs.resume(run, checkpoint_step)
    moment = Moment(after, rounds, happenings=happenings)
    if rounds is None:
        return moment
    step = rd.step_at(run.config, rounds.committed)
    moment.run = replace(after, step=step, evaluated=min(run.evaluated, step))
    if moment.over and after.phase == "waiting":
        moment.run, moment.happenings = replace(moment.run, phase="finishing"), []
        moment.happenings.append(runs.phase_of(moment.run))
    return moment


def _start(moment: Moment, workers: Workers, now: float, stored: Stored) -> None:
    run = moment.run
    shape = moment.rounds.shape if moment.rounds else None
    ready = clusters.free(workers.values(), (), config_digest(run.config), shape)
    if not ready:
        moment.run = replace(run, ready_since=None)
        return
    since = now if run.ready_since is None else run.ready_since
    run = moment.run = replace(run, ready_since=since)
    wanted, waited = run.config.start.workers, now - since >= run.config.start.wait_s
    agreeing = len(plans.agreeing(ready))
    if agreeing < wanted and not waited:
        if len(ready) >= wanted:  # enough workers that will never agree: waiting on would hide it
            moment.run, happenings = runs.fail(run, runs.disagreement(ready))
            moment.happenings += happenings
        return
    found = clusters.found(run.config, ready, _known(moment, ready, now), now)
    number = moment.rounds.committed if moment.rounds else 0
    try:
        for members in found:
            _add(moment, members, number, stored)
    except ConfigInvalid as error:
        moment.run, happenings = runs.fail(run, Failure(f"{error}. {error.hint}", f"{error}. {error.hint}"))
        moment.happenings += happenings
        return
    if not found:
        return
    first = moment.run.clusters[0]
    count = sum(len(plan.members) for plan in moment.run.clusters)
    if moment.rounds is None:
        moment.rounds = rd.begin(first.shape, Layout(first.shape.sizes, (1,)).total, count)
    moment.run = replace(moment.run, ready_since=None)
    _enter(moment, "training")
    moment.taking(round_plan.publish(moment.rounds, moment.run, now, _places(moment, now)))


def _known(moment: Moment, workers: Iterable[Worker], now: float) -> dict[Pair, Link]:
    """Links among these workers, where clusters follow from them."""
    if moment.run.config.cluster.policy != "auto":
        return {}
    return lk.known(moment.links, [worker.worker_id for worker in workers], now)


def _places(moment: Moment, now: float) -> Places:
    return places(moment.links, [m.worker_id for plan in moment.run.clusters for m in plan.members], now)


def _add(moment: Moment, members: list[Worker], number: int, stored: Stored) -> None:
    run = moment.run
    epoch = Epoch(run.epoch + 1)
    plan = clusters.form(run.run_id, run.config, epoch, number, stored.newest_complete, members)
    moment.run = replace(run, epoch=epoch, clusters=(*run.clusters, plan))
    public = {
        "epoch": epoch,
        "members": len(members),
        "first_step": plan.first_step,
        "cluster": plan.cluster,
        "round": number,
    }
    moment.happenings.append(Happening("plan", public, {"worker_ids": [m.worker_id for m in plan.members]}))


def _regroup(moment: Moment, workers: Workers, now: float) -> None:
    """Clusters that have lost a member go on from a restore point with those who are left, if they can."""
    run, breaking = moment.run, dict(moment.run.breaking)
    for plan in run.clusters:
        if clusters.loss(plan, workers) is None and not recovery.is_breaking(plan, workers):
            breaking.pop(plan.cluster, None)
            continue
        broken_s = now - breaking.setdefault(plan.cluster, now)
        run = moment.run
        next_epoch = Epoch(run.epoch + 1)
        free = clusters.free(workers.values(), run.clusters, config_digest(run.config), plan.shape)
        there = [workers[m.worker_id] for m in plan.members if m.worker_id in workers]
        known = _known(moment, (*there, *free), now) if free else {}
        wanted = run.regrouping.get(plan.epoch)
        going = recovery.going(plan, run.run_id, run.config, next_epoch, workers, broken_s, free, known, wanted)
        if going.waits:
            continue
        del breaking[plan.cluster]
        if going.plan is not None:
            _go_on(moment, plan, going.plan)
    if breaking != moment.run.breaking:
        moment.run = replace(moment.run, breaking=breaking)


def _go_on(moment: Moment, before: Plan, plan: Plan) -> None:
    """The cluster follows another plan."""
    found = tuple(plan if other is before else other for other in moment.run.clusters)
    moment.run = replace(moment.run, epoch=plan.epoch, clusters=found)
    public = {"epoch": plan.epoch, "members": len(plan.members), "cluster": plan.cluster, "round": plan.round}
    stay = {member.worker_id for member in plan.members}
    lost = sum(member.worker_id not in stay for member in before.members)
    ids = {"worker_ids": [m.worker_id for m in plan.members]}
    moment.happenings.append(Happening("plan", public, ids))
    if moment.rounds is not None:
        moment.taking(recovery.revised(moment.rounds.counted(clusters_regrouped=1, members_lost=lost), plan))


def _lose(moment: Moment, workers: Workers) -> None:
    """Clusters that miss a member are gone; who is left of them gets ready again, for another one.

    So are those that wait for a round which nobody is left to bring about: they are needed for the one before it.
    """
    kept: list[Plan] = []
    reasons = {plan.cluster: _loss(moment, plan, workers) for plan in moment.run.clusters}
    there = [plan for plan in moment.run.clusters if reasons[plan.cluster] is None]
    committed = moment.rounds.committed if moment.rounds else 0
    if all(plan.round > committed for plan in there):
        reasons |= {plan.cluster: f"nobody is left in round {committed}, before it enters" for plan in there}
    for plan in moment.run.clusters:
        reason = reasons[plan.cluster]
        if reason is None:
            kept.append(plan)
            continue
        worker_ids = [member.worker_id for member in plan.members]
        moment.happenings.append(
            Happening(
                "cluster_lost",
                {"cluster": plan.cluster, "members": len(worker_ids)},
                {"reason": reason, "worker_ids": worker_ids},
            )
        )
        # One that had not heard of the plan is still called ready, but its engine may be on its way to that plan.
        moment.heard_anew += [
            replace(workers[w], state="joining", endpoint=None, shape=None)
            for w in worker_ids
            if w in workers and workers[w].state == "ready"
        ]
        if moment.rounds is not None:
            full = sum(w in workers and workers[w].failure == StorageFailed.slug for w in worker_ids)
            moment.rounds = moment.rounds.counted(clusters_lost=1, worker_storage_failures=full)
    if len(kept) < len(moment.run.clusters):
        moment.run = replace(moment.run, clusters=tuple(kept))


def _loss(moment: Moment, plan: Plan, workers: Workers) -> str | None:
    if plan.cluster in moment.run.breaking:
        return None  # for a while
    reason = clusters.loss(plan, workers)
    if reason is None and recovery.is_breaking(plan, workers):
        return "its members cannot go on, and have no restore point"
    return reason


def _follow(moment: Moment, workers: Workers) -> None:
    """Members that are found elsewhere by now."""
    found = addresses.followed(moment.run.clusters, workers)
    if moment.rounds is not None and found != moment.run.clusters:
        moment.run = replace(moment.run, clusters=found)
        moment.taking(addresses.told(moment.rounds, found))


def _grow(moment: Moment, workers: Workers, now: float, stored: Stored) -> None:
    """Ready workers form new clusters, which enter with the next round; with this one, if nobody else is in it.

    Those that cannot share the model wait on: a run is not failed for who comes later.
    """
    run, rounds = moment.run, moment.rounds
    if rounds is None:
        return
    there = {cluster.cluster for cluster in run.clusters}
    deserted = rounds.plan is None or not any(p.cluster in there for p in rounds.plan.participants)
    number = rounds.committed + (0 if deserted else 1)
    if number >= run.config.round_count:
        return
    again = {worker.worker_id for worker in moment.heard_anew}
    candidates = [worker for worker_id, worker in workers.items() if worker_id not in again]
    ready = clusters.free(candidates, run.clusters, config_digest(run.config), rounds.shape)
    for members in clusters.found(run.config, ready, _known(moment, ready, now), now):
        with contextlib.suppress(ConfigInvalid):
            _add(moment, members, number, stored)


def _advance(moment: Moment, workers: Workers, now: float) -> None:
    """Commit what is whole, publish what is next, raise the terms of spans that nobody reduces."""
    if moment.rounds is None:
        return
    rounds_config = moment.run.config.rounds
    _commit(moment, now)
    if moment.over:
        return
    if moment.record is not None:
        _break_up(moment, workers, now)
    plan = moment.rounds.plan
    if (plan is None or not rd.live_workers(plan, moment.run.clusters)) and any(
        cluster.round <= moment.rounds.committed for cluster in moment.run.clusters
    ):
        moment.taking(round_plan.publish(moment.rounds, moment.run, now, _places(moment, now)))
    # Of a plan that is new, too: whoever was to reduce in it may be known to be silent.
    unheard = silence.quiet(moment.run, moment.rounds, workers, now)
    moment.taking(terms.overdue(moment.rounds, moment.run.clusters, rounds_config, now, unheard))


def _commit(moment: Moment, now: float) -> None:
    """The round, if it is whole: of a run that is paused too, whose clusters finish theirs."""
    if moment.rounds is None:
        return
    moment.taking(audits.judged(moment.rounds, moment.run.clusters, moment.run.config.rounds, now))
    moment.taking(rd.commit(moment.rounds, now))
    if moment.over:
        _enter(moment, "finishing")


def _break_up(moment: Moment, workers: Workers, now: float) -> None:
    """Between two rounds: clusters end where others of their members and of who is free would be much faster."""
    run, rounds = moment.run, moment.rounds
    assert rounds is not None
    if run.config.cluster.policy != "auto" or run.breaking:
        return
    free = clusters.free(workers.values(), run.clusters, config_digest(run.config), rounds.shape)
    there = [workers[m.worker_id] for plan in run.clusters for m in plan.members if m.worker_id in workers]
    known = _known(moment, (*there, *free), now)
    changes = breaking_up.broken_up(run.config, rounds, run.clusters, free, workers, known)
    if not changes.ended and not changes.regrouped:
        return
    for plan in run.clusters:
        if plan.cluster in changes.ended:
            worker_ids = [member.worker_id for member in plan.members]
            moment.happenings.append(
                Happening(
                    "cluster_lost",
                    {"cluster": plan.cluster, "members": len(worker_ids)},
                    {"reason": "its members form faster clusters", "worker_ids": worker_ids},
                )
            )
    moment.rounds = replace(rounds, broken_up_at=rounds.committed)
    moment.run = replace(
        run,
        clusters=tuple(plan for plan in run.clusters if plan.cluster not in changes.ended),
        regrouping={p.epoch: changes.regrouped[p.cluster] for p in run.clusters if p.cluster in changes.regrouped},
    )


def _enter(moment: Moment, phase: RunPhase) -> None:
    step = moment.run.config.steps if phase in ("finishing", "complete") else moment.run.step
    moment.run = replace(moment.run, phase=phase, step=step)
    moment.happenings.append(runs.phase_of(moment.run))
