"""What a round asks of everybody: how much, on which blocks, until when, and who combines what. Pure.

Speeds are what clusters' own step records say; they bound how much work is handed out and counted, they prove nothing.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from legion.config import RunConfig, config_digest
from legion.ids import ClusterId, WorkerId
from legion.layout import apportion
from legion.messages import Plan
from legion.rounds import CONTRIBUTE_SHARE, Blocks, Participant, RoundPlan, SpanPlan
from legion_server.domain import audits, leases
from legion_server.domain.leases import NO_BLOCKS
from legion_server.domain.places import NOWHERE, Places
from legion_server.domain.rounds import (
    TRUSTED_AFTER,
    Outcome,
    Rounds,
    Seat,
    Turn,
    published,
    step_at,
    steps_of,
    unused,
    without,
)
from legion_server.domain.runs import Run

MOST_EARLIER = 8  # rounds whose leases a cluster keeps without having contributed to all spans; then they go back
BACKUPS = 2  # reducers in a span's list behind the first
SPEED_MARGIN = 1.5  # a cluster may be this much faster than measured before its tokens stop counting
NEW_SHARE = 4  # new identities weigh at most 1 part against 4 of the others: 20 %
SHORTEST_DEADLINE_S = 30.0  # below, a machine that is busy for a moment counts as silent
DEADLINE_ROUNDS = 4.0  # a deadline in measured rounds


def publish(rounds: Rounds, run: Run, now: float, places: Places = NOWHERE) -> Outcome:
    """The plan of the next round, or again of this one, all of whose participants are gone."""
    config, number = run.config, rounds.committed
    clusters = [cluster for cluster in run.clusters if cluster.round <= number]
    revision = rounds.plan.revision + 1 if rounds.plan is not None else 0
    # Not before: what a gone cluster had sent may still have entered the round that has just ended.
    for name in sorted(rounds.seats.keys() - {cluster.cluster for cluster in run.clusters}):
        rounds = without(rounds, name)
    rounds = _seated(rounds, config, number, clusters)
    flush = flushes(config, number)
    contribute_s, deadline_s = times(config, None if flush else rounds.round_s)
    steps = steps_of(config, number)
    spans = [
        SpanPlan(start=start, stop=stop, reducers=reducers)
        for (start, stop), reducers in zip(rounds.bounds, reducers_of(rounds, clusters, places), strict=True)
    ]
    plan = RoundPlan(
        run_id=run.run_id,
        round=number,
        revision=revision,
        config_digest=config_digest(config),
        shape=rounds.shape,
        steps=steps,
        first_step=step_at(config, number),
        participants=tuple(_participants(rounds, config, number, clusters)),
        spans=audits.with_audits(spans, config, number, able_to_reduce(rounds, clusters), clusters, now),
        regions=_told_regions(places, clusters),
        flush=flush,
        contribute_s=contribute_s,
        deadline_s=deadline_s,
    )
    lost = [old is not None and old != span.reducers[0] for old, span in zip(rounds.reducers, spans, strict=True)]
    after = replace(
        rounds,
        plan=plan,
        published_at=now,
        turns=(Turn(now),) * len(plan.spans),
        reducers=tuple(None if gone else old for gone, old in zip(lost, rounds.reducers, strict=True)),
    ).counted(residuals_lost=sum(lost))
    return Outcome(after, [published(plan)])


def _told_regions(places: Places, clusters: Sequence[Plan]) -> tuple[tuple[WorkerId, int], ...]:
    """For newcomers, who ask those near them for updates; nothing where all that are known are near."""
    there = {member.worker_id for plan in clusters for member in plan.members}
    known = {worker: region for worker, region in places.regions.items() if worker in there}
    return tuple(sorted(known.items())) if len(set(known.values())) > 1 else ()


def flushes(config: RunConfig, number: int) -> bool:
    """Whether contributions to this round are dense: now and then, and at the end, where local weights keep the rest.

    Never with a buffer: what waits there is old, and all of it at once made every anchor worse (docs/convergence.md).
    """
    due = (number + 1) % config.rounds.flush_every == 0 or number + 1 == config.round_count
    return config.rounds.feedback == "residual" and due


def times(config: RunConfig, round_s: float | None) -> tuple[float, float]:
    """`contribute_s` and `deadline_s`, from a round's measured time; the configuration is the upper bound.

    Of a flush nothing is known: it may have thirty times the bytes of the rounds before.
    """
    deadline_s = config.rounds.deadline_s
    if round_s is not None:
        deadline_s = min(deadline_s, max(SHORTEST_DEADLINE_S, DEADLINE_ROUNDS * round_s))
    return CONTRIBUTE_SHARE * deadline_s, deadline_s


# Work.


def micro_batches(mean: int, speeds: Sequence[float | None]) -> list[int]:
    """Micro-batches per step for each cluster: in proportion to speed, at least 1, `mean` on average.

    A cluster that nothing is known of counts as an average one.
    """
    known = [speed for speed in speeds if speed]
    if not known:
        return [mean] * len(speeds)
    average = sum(known) / len(known)
    weights = [max(1, round(1000 * (speed or average) / average)) for speed in speeds]
    counts = apportion(mean * len(speeds), weights)
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def _seated(rounds: Rounds, config: RunConfig, number: int, clusters: Sequence[Plan]) -> Rounds:
    """Every cluster with a seat, and with leases for this round and the next.

    What was leased too long ago goes back, else the plan would grow with every round that a cluster lives through and
    never contributes to. Its work of then still goes with its next contribution, but counts for nothing: members name
    no blocks that the plan does not know to be theirs.
    """
    seats, pool = dict(rounds.seats), rounds.pool
    given_back: list[Blocks] = []  # not leased again at once: it would be to the one who had it
    speeds = [rounds.speeds.get(cluster.cluster) for cluster in clusters]
    wanted = micro_batches(config.batch.micro_batches, speeds)
    for cluster, count in zip(clusters, wanted, strict=True):
        first = Seat(number, included=(number - 1,) * len(rounds.bounds))
        seat = seats.get(cluster.cluster, first)
        past = [before for before in seat.leases if before < number - MOST_EARLIER]
        given_back += unused(seat, past)
        held = {before: lease for before, lease in seat.leases.items() if before not in past}
        for ahead in (number, number + 1):
            size = steps_of(config, ahead) * count * config.batch.micro_batch_blocks
            if size and ahead not in held:
                pool, lease = leases.take(pool, size)
                held[ahead] = (lease,)
        seats[cluster.cluster] = replace(seat, leases=held)
    return replace(rounds, seats=seats, pool=leases.give_back(pool, given_back) if given_back else pool)


def _participants(rounds: Rounds, config: RunConfig, number: int, clusters: Sequence[Plan]) -> list[Participant]:
    most = most_tokens(rounds, config, number, clusters)
    per_step = steps_of(config, number) * config.batch.micro_batch_blocks
    found = []
    for cluster in clusters:
        seat = rounds.seats[cluster.cluster]
        blocks = _lease(seat, number)
        found.append(
            Participant(
                cluster=cluster.cluster,
                epoch=cluster.epoch,
                members=cluster.members,
                micro_batches=len(blocks) // per_step,
                blocks=blocks,
                next_blocks=_lease(seat, number + 1),
                earlier=tuple(r for before, held in sorted(seat.leases.items()) if before < number for r in held),
                most_tokens=most[cluster.cluster],
            )
        )
    return found


def _lease(seat: Seat, number: int) -> Blocks:
    held = seat.leases.get(number, ())
    return held[0] if held else NO_BLOCKS


def most_tokens(rounds: Rounds, config: RunConfig, number: int, clusters: Sequence[Plan]) -> Mapping[ClusterId, int]:
    """What each cluster may weigh in this round.

    Bounded by its leases and its speed; nothing for those that join a run under way, and together at most 20 % for new
    identities, unless there are no others.
    """
    seats = {cluster.cluster: rounds.seats[cluster.cluster] for cluster in clusters}
    most = {name: _bound(rounds, config, number, name, seat) for name, seat in seats.items()}
    joiners = {name for name, seat in seats.items() if seat.first == number}
    if number > 0 and len(joiners) < len(seats):
        most |= dict.fromkeys(joiners, 0)
    new = {c.cluster for c in clusters if not _trusted(rounds, c)}
    of_trusted = sum(most[name] for name in seats if name not in new)
    of_new = sum(most[name] for name in new)
    if of_trusted and of_new * NEW_SHARE > of_trusted:
        most |= {name: most[name] * of_trusted // (of_new * NEW_SHARE) for name in new}
    return most


def _bound(rounds: Rounds, config: RunConfig, number: int, name: ClusterId, seat: Seat) -> int:
    held = [r for leased_for, ranges in seat.leases.items() if leased_for <= number for r in ranges]
    leased = leases.count(leases.minus(held, seat.early)) * config.data.seq_len
    speed = rounds.speeds.get(name)
    if speed is None or rounds.round_s is None:
        return leased
    # Since its last contribution: one that was left out has the work of several rounds to deliver.
    expected_s = rounds.round_s * (number - max(seat.included))
    return min(leased, math.ceil(SPEED_MARGIN * speed * expected_s))


# Reducers.


def reducers_of(rounds: Rounds, clusters: Sequence[Plan], places: Places = NOWHERE) -> list[tuple[WorkerId, ...]]:
    """Per span, in order: who had it last while it is there, else whoever has fewest; behind it others' workers.

    New identities reduce only where nobody else can, and so do workers behind relays: all would go through these. As
    far as links are measured, neither do those with a poor uplink, and the spans spread over regions: of two with as
    many, the one whose region has fewer; backups are elsewhere.
    """
    cluster_of = {member.worker_id: plan.cluster for plan in clusters for member in plan.members}
    direct = {m.worker_id for plan in clusters for m in plan.members if not m.endpoint.relayed}
    able = able_to_reduce(rounds, clusters)
    able = places.good([worker for worker in able if worker in direct] or able)
    load = Counter(worker for worker in rounds.reducers if worker in cluster_of)
    backed: Counter[WorkerId] = Counter()
    found = []
    for before in rounds.reducers:
        stays = before is not None and before in cluster_of and (before in able or before not in rounds.barred)
        first = before if stays and before is not None else _least(able, load, places)
        if first != before:
            load[first] += 1
        listed = [first]
        for _ in range(BACKUPS):
            rest = [w for w in able if w not in listed]
            elsewhere = [w for w in rest if cluster_of[w] != cluster_of[first]]
            if rest:
                others = [w for w in elsewhere if not places.crowd(w, Counter([first]))]
                backup = _least(others or elsewhere or rest, backed, places)
                backed[backup] += 1
                listed.append(backup)
        found.append(tuple(listed))
    return found


def able_to_reduce(rounds: Rounds, clusters: Sequence[Plan]) -> list[WorkerId]:
    """Neither new nor barred, if there are such."""
    there = sorted(member.worker_id for plan in clusters for member in plan.members)
    believed = [worker for worker in there if worker not in rounds.barred]
    return [worker for worker in believed if rounds.accepted.get(worker, 0) >= TRUSTED_AFTER] or believed or there


def _least(workers: Sequence[WorkerId], load: Counter[WorkerId], places: Places) -> WorkerId:
    return min(workers, key=lambda worker: (load[worker], places.crowd(worker, load), worker))


def _trusted(rounds: Rounds, cluster: Plan) -> bool:
    return all(rounds.accepted.get(member.worker_id, 0) >= TRUSTED_AFTER for member in cluster.members)
