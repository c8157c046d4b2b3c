"""What is known of the links between workers. Pure: samples and time in, estimates and who is to measure whom out.

Nothing trusts a single sample: one end's account is the median of its newest few young samples, at least LEAST of them.
Nothing trusts one end: a link counts as measured when both ends give an account, and then the worse of the two counts,
so that nobody can talk itself nearer to another than that one says. What is old no longer counts.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from legion.ids import WorkerId
from legion.links import NEAR_RTT_S, REGION_RTT_S, SERVER, LinkSample, LinkState, Outcome
from legion.messages import LinkPeer
from legion_server.domain.membership import Worker

KEPT = 5  # samples of one end
LEAST = 2  # of them, before anything is believed
MOST_AGE_S = 86_400.0
REFRESH_S = 6 * 3600.0  # then a link is measured anew
BROKEN_REFRESH_S = 900.0  # one that was found broken
ASK_AGAIN_S = 45.0  # who was asked to measure has so long to tell
PEERS = 8  # that a worker measures, if nothing says that more are near
MOST_PEERS = 16
AT_ONCE = 2  # peers named in one answer to a heartbeat
THERE = ("ready", "training")  # states in which a worker's engine listens
AWAKE_S = 540.0  # that it surely does while it is ready, where clusters do not follow from links; then it may doze

Pair = tuple[WorkerId, WorkerId]  # who measured, and what


@dataclass(frozen=True, slots=True)
class Sample:
    at: float  # s since 1970, of the server's clock
    outcome: Outcome
    rtt_s: float | None = None
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None


Links = Mapping[Pair, tuple[Sample, ...]]  # the newest last


@dataclass(frozen=True, slots=True)
class Account:
    """What one end says of a link."""

    outcome: Outcome
    rtt_s: float | None
    up_bytes_per_s: float | None
    down_bytes_per_s: float | None
    samples: int
    at: float


@dataclass(frozen=True, slots=True)
class Link:
    """Between two workers, the first and the second. Figures of one end alone are there to be looked at."""

    state: LinkState
    rtt_s: float | None = None
    there_bytes_per_s: float | None = None  # from the first to the second
    back_bytes_per_s: float | None = None
    samples: tuple[int, int] = (0, 0)
    at: float | None = None

    @property
    def near(self) -> bool:
        """Good enough for one cluster, as far as the round trip tells: both ends say so."""
        return self.state == "measured" and self.rtt_s is not None and self.rtt_s <= NEAR_RTT_S


UNMEASURED = Link("unmeasured")


def told(links: Links, worker: WorkerId, samples: Iterable[LinkSample], now: float) -> dict[Pair, tuple[Sample, ...]]:
    """The rows that change. What a clock has put into the future is forgotten."""
    changed: dict[Pair, tuple[Sample, ...]] = {}
    for told_now in samples:
        pair = (worker, told_now.peer)
        if told_now.peer == worker:
            continue
        sample = Sample(now, told_now.outcome, told_now.rtt_s, told_now.up_bytes_per_s, told_now.down_bytes_per_s)
        known = [before for before in changed.get(pair, links.get(pair, ())) if now - MOST_AGE_S <= before.at <= now]
        changed[pair] = (*known, sample)[-KEPT:]
    return changed


def account(links: Links, pair: Pair, now: float) -> Account | None:
    """One end's, if it has enough young samples. Broken is what most of the newest three say."""
    young = [sample for sample in links.get(pair, ()) if 0 <= now - sample.at <= MOST_AGE_S]
    if len(young) < LEAST:
        return None
    newest = [sample.outcome for sample in young[-3:]]
    broken: tuple[Outcome, ...] = ("unreachable", "no_bulk")
    return Account(
        next((outcome for outcome in broken if 2 * newest.count(outcome) > len(newest)), "measured"),
        _median(sample.rtt_s for sample in young),
        _median(sample.up_bytes_per_s for sample in young),
        _median(sample.down_bytes_per_s for sample in young),
        len(young),
        young[-1].at,
    )


def link(links: Links, first: WorkerId, second: WorkerId, now: float) -> Link:
    """What both ends together say."""
    there, back = account(links, (first, second), now), account(links, (second, first), now)
    found = [one for one in (there, back) if one is not None]
    if not found:
        return UNMEASURED
    state: LinkState = "measured" if len(found) == 2 else "one_sided"
    for broken in ("unreachable", "no_bulk"):
        if any(one.outcome == broken for one in found):
            state = broken
    return Link(
        state,
        _worst(max, (one.rtt_s for one in found)),
        _worst(min, (there.up_bytes_per_s if there else None, back.down_bytes_per_s if back else None)),
        _worst(min, (there.down_bytes_per_s if there else None, back.up_bytes_per_s if back else None)),
        (there.samples if there else 0, back.samples if back else 0),
        max(one.at for one in found),
    )


def known(links: Links, workers: Iterable[WorkerId], now: float) -> dict[Pair, Link]:
    """All links between these workers of which anything is known, by pairs in the order of their ids."""
    present = set(workers)
    if len(present) ** 2 < len(links):  # few of many: their pairs are sooner looked up than found
        found = [pair for pair in combinations(sorted(present), 2) if pair in links or pair[::-1] in links]
    else:
        found = sorted({(min(pair), max(pair)) for pair in links if pair[0] in present and pair[1] in present})
    return {pair: one for pair in found if (one := link(links, *pair, now)) is not UNMEASURED}


def regions(links: Links, workers: Iterable[WorkerId], now: float) -> dict[WorkerId, int]:
    """A number for each worker that some other is known to be near to, in the coarse sense.

    Connected components of the graph of such links, numbered by their smallest worker id: the order of the workers
    does not matter. In a large run few pairs are measured, so that pairs at the two ends of a region may be far apart.
    """
    there = sorted(set(workers))
    parent = {worker: worker for worker in there}

    def root(worker: WorkerId) -> WorkerId:
        while parent[worker] != worker:
            worker = parent[worker]
        return worker

    placed: set[WorkerId] = set()
    for (first, second), one in known(links, there, now).items():
        if one.rtt_s is None:
            continue
        placed |= {first, second}
        if one.rtt_s < REGION_RTT_S:
            low, high = sorted((root(first), root(second)))
            parent[high] = low
    numbers = {r: n for n, r in enumerate(sorted({root(worker) for worker in placed}))}
    return {worker: numbers[root(worker)] for worker in there if worker in placed}


def listens(worker: Worker, now: float, *, dozes: bool = False) -> bool:
    """Whether its engine answers others. `dozes`: who is ready for long has none until there is a plan."""
    if worker.state not in THERE or worker.endpoint is None:
        return False
    since = worker.ready_at if worker.state == "ready" else None
    return not dozes or since is None or now - since < AWAKE_S


def due(
    links: Links,
    asked: Mapping[Pair, float],
    me: Worker,
    workers: Mapping[WorkerId, Worker],
    now: float,
    *,
    dozes: bool = False,
) -> tuple[LinkPeer, ...]:
    """Whom a worker is to measure now, a few at a time. `asked`: when it was asked last, by pair; `dozes`: `listens`.

    Those that seem near come first: of the same subnet, or who have measured us and found it so. Beyond them a sample
    that both ends draw alike, from a hash of their names that changes with the day.
    """
    if not listens(me, now, dozes=dozes):
        return ()
    others = [w for w in workers.values() if w.worker_id != me.worker_id and listens(w, now, dozes=dozes)]
    ranked = sorted((_tier(links, me, other, now), _draw(me, other, now), other.worker_id) for other in others)
    seems_near = sum(tier < 2 for tier, _, _ in ranked)
    chosen = [worker for _, _, worker in ranked[: min(MOST_PEERS, max(PEERS, seems_near))]]
    # Whom one has measured lately counts, else a large run would be measured by and by whole.
    measured = {peer for reporter, peer in links if reporter == me.worker_id and peer != SERVER and peer not in chosen}
    room = MOST_PEERS - sum(_is_fresh(links, (me.worker_id, peer), now) for peer in measured)
    wanted = [
        other
        for other in chosen
        if not _is_fresh(links, (me.worker_id, other), now)
        and now - asked.get((me.worker_id, other), -ASK_AGAIN_S) >= ASK_AGAIN_S
    ]
    found = [workers[other] for other in wanted[: min(AT_ONCE, max(0, room))]]
    return tuple(LinkPeer(worker_id=w.worker_id, endpoint=w.endpoint) for w in found if w.endpoint is not None)


def moved(links: Links, before: Worker, after: Worker) -> Links:
    """Without what was measured of a worker that is now found behind a relay, or behind it no more."""
    if before.endpoint is None or after.endpoint is None or before.endpoint.relayed == after.endpoint.relayed:
        return links
    return {pair: rows for pair, rows in links.items() if after.worker_id not in pair or SERVER in pair}


def server_due(links: Links, asked: Mapping[Pair, float], me: WorkerId, now: float) -> bool:
    pair = (me, SERVER)
    return not _is_fresh(links, pair, now) and now - asked.get(pair, -ASK_AGAIN_S) >= ASK_AGAIN_S


def outdated(links: Links, now: float) -> list[Pair]:
    """Rows with nothing young."""
    return [pair for pair, samples in links.items() if not 0 <= now - samples[-1].at <= MOST_AGE_S]


def _is_fresh(links: Links, pair: Pair, now: float) -> bool:
    found = account(links, pair, now)
    if found is None:
        return False
    return now - found.at < (REFRESH_S if found.outcome == "measured" else BROKEN_REFRESH_S)


def _tier(links: Links, me: Worker, other: Worker, now: float) -> int:
    pair = (me.worker_id, other.worker_id)
    if pair in links or pair[::-1] in links:
        rtt_s = link(links, *pair, now).rtt_s
        if rtt_s is not None:
            return 0 if rtt_s <= NEAR_RTT_S else 1 if rtt_s < REGION_RTT_S else 3
    return 1 if _subnet(me) == _subnet(other) else 2


def _subnet(worker: Worker) -> str:
    """Of an IPv4 address the first 24 bits, of an IPv6 address the first 64 as it is written; of a name, the name."""
    host = worker.endpoint.host if worker.endpoint else ""
    if host.count(".") == 3 and host.replace(".", "").isdigit():
        return host.rpartition(".")[0]
    return ":".join(host.split(":")[:4]) if ":" in host else host


def _draw(me: Worker, other: Worker, now: float) -> bytes:
    """Alike for both, so that a link that is measured is measured from both ends."""
    names = "".join(sorted((me.worker_id, other.worker_id)))
    return hashlib.sha256(f"{int(now // MOST_AGE_S)}{names}".encode()).digest()


def _median(values: Iterable[float | None]) -> float | None:
    """As `statistics.median`, which takes ten times as long; there are thousands of links."""
    found = sorted(value for value in values if value is not None)
    middle = len(found) // 2
    if len(found) < LEAST:
        return None
    return found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2


def _worst(choose: Callable[[Sequence[float]], float], values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return choose(found) if found else None
