"""Links between workers: who is to measure which, what came of it, and what is shown of it."""

import statistics
from collections import Counter
from collections.abc import Callable

from legion.errors import NotFound
from legion.ids import WorkerId
from legion.links import SERVER, ClustersView, LinksReport, LinkState, LinkView, NetworkView, WorkerPlace
from legion.messages import HeartbeatReply
from legion_server.domain import links as lk
from legion_server.domain.explain import Scene, explain
from legion_server.domain.links import Link, Pair
from legion_server.domain.membership import Worker
from legion_server.service.coordinator import Coordinator


class LinkBook:
    """Belongs to the loop. Whom it asked to measure it forgets with the process: then it asks again."""

    def __init__(self, coordinator: Coordinator, clock: Callable[[], float]) -> None:
        self._coordinator = coordinator
        self._clock = clock
        self._asked: dict[Pair, float] = {}

    def with_orders(self, worker_id: WorkerId, reply: HeartbeatReply) -> HeartbeatReply:
        """The answer to a heartbeat, with what the worker is to measure, whatever clusters follow from.

        Reducers are chosen by it in every run in rounds.
        Addresses of other workers go to those that are to measure the way to them, and to nobody else.
        """
        state, now = self._coordinator.state, self._clock()
        me = state.workers.get(worker_id)
        if me is None or reply.phase not in ("waiting", "training"):
            return reply
        self._asked = {pair: at for pair, at in self._asked.items() if now - at < lk.ASK_AGAIN_S}
        dozes = state.run.config.cluster.policy != "auto"
        peers = lk.due(state.links, self._asked, me, state.workers, now, dozes=dozes)
        server = lk.server_due(state.links, self._asked, worker_id, now)
        if server:
            self._asked[worker_id, SERVER] = now
        for peer in peers:
            self._asked[worker_id, peer.worker_id] = now
        return reply.model_copy(update={"measure": peers, "measure_server": server})

    async def told(self, worker_id: WorkerId, report: LinksReport) -> None:
        """NotFound when it names a worker that nobody enrolled."""
        async with self._coordinator.deciding() as draft:
            for sample in report.samples:
                if sample.peer != SERVER and sample.peer not in draft.workers:
                    raise NotFound(f"no worker {sample.peer} is enrolled here")
            old = set(lk.outdated(draft.links, draft.now))
            kept = {pair: rows for pair, rows in draft.links.items() if pair not in old}
            draft.links = kept | lk.told(draft.links, worker_id, report.samples, draft.now)

    def network(self, *, private: bool) -> NetworkView:
        """Figures of who is here now, for everybody; for admins all pairs and workers, also of those that are not."""
        state, now = self._coordinator.state, self._clock()
        enrolled = {w.worker_id: w for w in state.workers.values() if w.state != "revoked"} if private else {}
        there = {w.worker_id: w for w in state.workers.values() if w.state in lk.THERE}
        known, regions = lk.known(state.links, there, now), lk.regions(state.links, enrolled or there, now)
        states: Counter[LinkState] = Counter(link.state for link in known.values())
        states["unmeasured"] = len(there) * (len(there) - 1) // 2 - len(known)
        rtts = [link.rtt_s for link in known.values() if link.rtt_s is not None]
        rates = [rate for link in known.values() for rate in (link.there_bytes_per_s, link.back_bytes_per_s) if rate]
        return NetworkView(
            workers=len(there),
            pairs={name: count for name, count in states.items() if count},
            regions=len({regions[worker] for worker in there if worker in regions}),
            near_pairs=sum(link.near for link in known.values()),
            median_rtt_s=statistics.median(rtts) if rtts else None,
            median_bytes_per_s=statistics.median(rates) if rates else None,
            links=tuple(_view(pair, link) for pair, link in lk.known(state.links, enrolled, now).items()),
            places=tuple(self._place(w, regions.get(w.worker_id), now) for w in enrolled.values()),
        )

    def clusters(self) -> ClustersView:
        state = self._coordinator.state
        scene = Scene(state.run, state.rounds, state.workers, state.links, self._clock())
        return ClustersView(policy=state.run.config.cluster.policy, workers=tuple(explain(scene)))

    def _place(self, worker: Worker, region: int | None, now: float) -> WorkerPlace:
        found = lk.account(self._coordinator.state.links, (worker.worker_id, SERVER), now)
        return WorkerPlace(
            worker_id=worker.worker_id,
            name=worker.name,
            region=region,
            server_rtt_s=found.rtt_s if found else None,
            server_up_bytes_per_s=found.up_bytes_per_s if found else None,
            server_down_bytes_per_s=found.down_bytes_per_s if found else None,
        )


def _view(pair: Pair, link: Link) -> LinkView:
    return LinkView(
        workers=pair,
        state=link.state,
        rtt_s=link.rtt_s,
        bytes_per_s=(link.there_bytes_per_s, link.back_bytes_per_s),
        samples=link.samples,
        measured_at=link.at,
    )
