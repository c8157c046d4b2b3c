"""Who shares a model with whom, by measurement: the groups, and with the decision its reasons. Pure.

A worker that can hold the model alone stays alone: ZeRO-3 never saves traffic, so sharing is for those that cannot.
They are grouped by complete linkage: every two members are near each other (both ends have measured a round trip within
NEAR_RTT_S, and bulk passes), what the members can hold is enough, and a step takes no longer than computing it, or at
least comes in time for a round (`cost.forecast`): by themselves they would contribute nothing. Groups in which the
network keeps up with the computing come first, then those that are small. Who fits nowhere waits, and is told why.

Workers are taken in an order of their own (most memory first, then by id), never in that of their arrival: the same
workers and links make the same groups, however they are listed. Those that are in a cluster stay there: who calls this
names only who is free. `newcomer` says who of these joins a cluster, `moves` when it is worth to break clusters up.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from legion.ids import WorkerId
from legion.links import NEAR_RTT_S
from legion_server.domain.cost import Candidate, Forecast, Job, fits, fits_alone, forecast, link_of, member_bytes
from legion_server.domain.links import PEERS, Link, Pair

MOST_MEMBERS = 16
MOST_NAMED = 8  # others of whom a worker is told why it is not with them
GAIN = 1.3  # in tokens/s of all, before clusters are broken up for others
JOIN_GAIN = 1.1  # in tokens/s of a cluster, before it takes in one more
MOVE_EVERY = 8  # rounds, at least
GIB = 2**30
UNTOLD = ("unmeasured", "one_sided")
LESS = "larger micro-batches, cluster.reduce_every 'step' or codecs make it less"

Known = Mapping[Pair, Link]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a worker is where it is, in a sentence; and for each of the others why it is not with that one."""

    kind: Literal["alone", "together", "waiting"]
    sentence: str
    not_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """Groups in the order of their smallest member's id, members by id; the others wait."""

    groups: tuple[tuple[WorkerId, ...], ...]
    reasons: Mapping[WorkerId, Reason] = field(default_factory=dict)


def groups_of(job: Job, candidates: Iterable[Candidate], known: Known) -> tuple[tuple[WorkerId, ...], ...]:
    """As `decide`, without the words."""
    everybody = sorted(candidates, key=lambda one: one.worker_id)
    needy = [one for one in everybody if not fits_alone(job, one)]
    shared, _ = _grouped(job, needy, _near(needy, known), known)
    return _in_order([*shared, *([one] for one in everybody if fits_alone(job, one))])


def decide(job: Job, candidates: Iterable[Candidate], known: Known) -> Decision:
    """Groups of workers that are in none."""
    everybody = sorted(candidates, key=lambda one: one.worker_id)
    alone = [one for one in everybody if fits_alone(job, one)]
    needy = [one for one in everybody if not fits_alone(job, one)]
    near = _near(needy, known)
    groups, left = _grouped(job, needy, near, known)
    reasons = {one.worker_id: why_alone(job, one) for one in alone}
    for group in groups:
        reasons |= {one.worker_id: why_together(job, one, group, known) for one in group}
    free = {one.worker_id for one in left}
    for one in left:
        still_near = [other for other in near[one.worker_id] if other.worker_id in free]
        reasons[one.worker_id] = _why_waiting(job, one, needy, still_near, known)
    return Decision(_in_order([*groups, *([one] for one in alone)]), reasons)


def _by_id(group: Iterable[Candidate]) -> list[Candidate]:
    return sorted(group, key=lambda one: one.worker_id)


def _is_near(one: Candidate, group: Iterable[Candidate], known: Known) -> bool:
    return all(link_of(known, one.worker_id, member.worker_id)[0].near for member in group)


def _in_order(groups: Iterable[Sequence[Candidate]]) -> tuple[tuple[WorkerId, ...], ...]:
    return tuple(sorted(tuple(sorted(one.worker_id for one in group)) for group in groups))


def hardly_measured(job: Job, candidates: Iterable[Candidate], known: Known) -> list[WorkerId]:
    """Workers that cannot hold the model alone, and of whose links to others such fewer are known than are measured."""
    needy = {one.worker_id for one in candidates if not fits_alone(job, one)}
    told = Counter[WorkerId]()
    for (first, second), link in known.items():
        if first in needy and second in needy and link.state not in UNTOLD:
            told.update((first, second))
    return sorted(worker for worker in needy if told[worker] < min(len(needy) - 1, PEERS))


def moves(
    job: Job, standing: Sequence[tuple[Sequence[Candidate], float | None]], free: Iterable[Candidate], known: Known
) -> tuple[tuple[WorkerId, ...], ...] | None:
    """Better groups of all, members of clusters and free ones; None where those that stand are nearly as good.

    `standing`: with the tokens/s of each as measured, if they were: one that is faster than its links let us think is
    believed. One that is slower is not held against it, as the others' speed is a forecast too.
    """
    everybody = [*(one for group, _ in standing for one in group), *free]
    ideal, by_id = groups_of(job, everybody, known), {one.worker_id: one for one in everybody}
    before = sum(max(speed or 0.0, forecast(job, group, known).tokens_per_s) for group, speed in standing)
    after = sum(forecast(job, [by_id[w] for w in group], known).tokens_per_s for group in ideal)
    return ideal if after >= GAIN * before and after > 0 else None


def newcomer(job: Job, group: Sequence[Candidate], free: Iterable[Candidate], known: Known) -> Candidate | None:
    """Who of those that are free is the most use to this cluster: with whom alone it holds the model, or is faster."""
    now = forecast(job, group, known).tokens_per_s if fits(job, group) else 0.0
    best, most = None, JOIN_GAIN * now
    for one in sorted(free, key=lambda other: other.worker_id):
        larger = [*group, one]
        if len(larger) > MOST_MEMBERS or fits_alone(job, one) or not _is_near(one, group, known):
            continue
        if not fits(job, larger):
            continue
        told = forecast(job, larger, known)
        if told.pays and told.tokens_per_s > most:
            best, most = one, told.tokens_per_s
    return best


def why_alone(job: Job, one: Candidate) -> Reason:
    needs, has = member_bytes(job, job.total) / GIB, one.memory_bytes / GIB
    return Reason("alone", f"holds the model alone: it takes {needs:.3g} GiB of its {has:.3g} GiB of memory")


def why_together(job: Job, one: Candidate, group: Sequence[Candidate], known: Known) -> Reason:
    """Also of a cluster that was formed before: with what is known now."""
    others = [other for other in group if other.worker_id != one.worker_id]
    if not others:
        return why_alone(job, one)
    rtts = [link_of(known, one.worker_id, other.worker_id)[0].rtt_s for other in others]
    measured = [rtt_s for rtt_s in rtts if rtt_s is not None]
    near = f"the longest round trip to them is {_ms(max(measured))}" if measured else "their links are not measured now"
    told = forecast(job, group, known)
    sentence = (
        f"shares the model with {_names(others)}: alone it takes {member_bytes(job, job.total) / GIB:.3g} GiB of its "
        f"{one.memory_bytes / GIB:.3g} GiB of memory; {near}, and {_costs(told, group)}"
    )
    return Reason("together", sentence if told.keeps_up else f"{sentence}; {LESS}")


def _near(needy: Sequence[Candidate], known: Known) -> dict[WorkerId, list[Candidate]]:
    """Who is near whom, by id."""
    by_id = {one.worker_id: one for one in needy}
    found: dict[WorkerId, list[Candidate]] = {worker: [] for worker in by_id}
    for (first, second), link in known.items():
        if link.near and first in by_id and second in by_id:
            found[first].append(by_id[second])
            found[second].append(by_id[first])
    return {worker: sorted(others, key=lambda other: other.worker_id) for worker, others in found.items()}


def _grouped(
    job: Job, needy: Sequence[Candidate], near: Mapping[WorkerId, Sequence[Candidate]], known: Known
) -> tuple[list[list[Candidate]], list[Candidate]]:
    """Groups, and who is left, by id."""
    largest_first = sorted(needy, key=lambda one: (-one.memory_bytes, one.worker_id))
    left, groups = {one.worker_id: one for one in largest_first}, []
    for seed in largest_first:
        if seed.worker_id not in left:
            continue
        still_free = [other for other in near[seed.worker_id] if other.worker_id in left]
        group = _smallest(job, seed, still_free, known)
        if group is not None:
            groups.append(group)
            for one in group:
                del left[one.worker_id]
    return groups, sorted(left.values(), key=lambda one: one.worker_id)


def _smallest(job: Job, seed: Candidate, near: Sequence[Candidate], known: Known) -> list[Candidate] | None:
    """A group with `seed` that holds the model and pays: grown by who has most memory, or by who has the best link.

    Greedy: the smallest of all would be a clique of least weight, which nobody finds quickly.
    """

    def by_memory(one: Candidate) -> tuple[float, ...]:
        return (-one.memory_bytes, *by_link(one))

    def by_link(one: Candidate) -> tuple[float, ...]:
        link, _ = link_of(known, seed.worker_id, one.worker_id)
        return (-min(link.there_bytes_per_s or 0.0, link.back_bytes_per_s or 0.0), link.rtt_s or 0.0)

    found = [
        group
        for order in (by_memory, by_link)
        if (group := _grown(job, seed, near, known, order)) is not None and forecast(job, group, known).pays
    ]
    return min(found, key=lambda group: (not forecast(job, group, known).keeps_up, len(group)), default=None)


def _grown(
    job: Job, seed: Candidate, near: Sequence[Candidate], known: Known, order: Callable[[Candidate], tuple[float, ...]]
) -> list[Candidate] | None:
    group = [seed]
    for one in sorted(near, key=lambda other: (*order(other), other.worker_id)):
        if len(group) == MOST_MEMBERS:
            break
        if _is_near(one, group, known):
            group.append(one)
            if fits(job, _by_id(group)):
                return _by_id(group)
    return None


def _why_waiting(
    job: Job, one: Candidate, needy: Sequence[Candidate], near: Sequence[Candidate], known: Known
) -> Reason:
    needs, has = member_bytes(job, job.total) / GIB, one.memory_bytes / GIB
    begin = f"waits: the model takes {needs:.3g} GiB, it has {has:.3g} GiB of memory, and "
    others = sorted((other for other in needy if other is not one), key=lambda other: _distance(one, other, known))
    not_with = tuple(_why_not(one, other, known) for other in others[:MOST_NAMED])
    if len(needy) == 1:
        end = "nobody else is there that would need to share it"
    elif job.config.optimizer.name == "muon":
        end = "the optimizer muon cannot be shared"
    elif not near and others and _distance(one, others[0], known)[0] == inf:
        end = "its links to others are not measured yet"
    elif not near:
        end = "nobody that is free is near it"
    elif (group := _grown(job, one, near, known, lambda other: (-other.memory_bytes,))) is None:
        end = f"with those that are near it, {_names(near)}, there is not enough memory"
    else:
        names = _names([other for other in group if other is not one])
        end = f"with {names} {_costs(forecast(job, group, known), group)}; {LESS}"
    return Reason("waiting", begin + end, not_with)


def _distance(one: Candidate, other: Candidate, known: Known) -> tuple[float, WorkerId]:
    """To name the nearest first; endless where the two have not both told."""
    link, _ = link_of(known, one.worker_id, other.worker_id)
    return (inf if link.state in UNTOLD or link.rtt_s is None else link.rtt_s, other.worker_id)


def _why_not(one: Candidate, other: Candidate, known: Known) -> str:
    link, _ = link_of(known, one.worker_id, other.worker_id)
    begin = f"not with {other.label}: "
    if link.state == "no_bulk":
        return begin + "small messages arrive, but nothing large does: their link counts as dead"
    if link.state == "unreachable":
        return begin + "one of them cannot reach the other"
    if link.state != "measured" or link.rtt_s is None:
        return begin + ("only one of them has measured their link" if link.at else "their link is not measured")
    if not link.near:
        through = _through([one, other])
        return begin + f"a round trip{through} takes {_ms(link.rtt_s)}, more than {_ms(NEAR_RTT_S)}"
    return begin + f"near ({_ms(link.rtt_s)}), but no group of theirs holds the model and pays"


def _costs(told: Forecast, group: Sequence[Candidate]) -> str:
    how = "as measured" if all(one.is_measured for one in group) else "as their hardware suggests"
    verdict = "within" if told.keeps_up else "more than"
    if told.exchange_s == float("inf"):
        return "nothing is known of what their links carry"
    exchange, compute = f"exchanging a step{_through(group)} takes {_s(told.exchange_s)}", _s(told.compute_s)
    costs = f"{exchange}, {verdict} the {compute} of computing it"
    if told.keeps_up:
        return f"{costs} ({how})"
    if told.pays:
        return f"{costs} ({how}), but none could train alone, and it comes in the {_s(told.longest_step_s)} of a round"
    return f"{costs} ({how}) and than the {_s(told.longest_step_s)} that a round waits for it"


def _through(group: Sequence[Candidate]) -> str:
    """Which of them are behind relays, and share what these carry."""
    behind = [one for one in group if one.relay is not None]
    if not behind:
        return ""
    if len(behind) == 1:
        return f" through the relay of {behind[0].label}"
    if len({one.relay for one in behind}) == len(behind):
        return f" through the relays of {_names(behind)}"
    return f" through the relay of {_names(behind)}, which they share,"


def _names(members: Sequence[Candidate]) -> str:
    *most, last = (member.label for member in members)
    return f"{', '.join(most)} and {last}" if most else last


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def _s(seconds: float) -> str:
    return f"{seconds:.3g} s"
