"""A table of clusters some of which fall asleep or die in the middle of a round."""

from collections.abc import Callable
from dataclasses import dataclass, field

from legion.ids import ClusterId
from legion.rounds import SpanReport
from legion_client.engine.protocol import AnchorReached, RoundNews, SpanReduced
from tests.client.engine.engine_processes import EngineProcess
from tests.client.engine.round_table import Cluster, Table


@dataclass
class DisturbedTable(Table):
    """Spans of clusters that are away are the next reducers'. The calls are made with the lock held."""

    away: list[Cluster] = field(default_factory=list)
    on_reduced: Callable[["DisturbedTable", EngineProcess, SpanReport], bool] = lambda *_: True  # whether it counts
    on_root: Callable[["DisturbedTable", int], None] = lambda *_: None

    def cluster_of(self, engine: EngineProcess) -> Cluster:
        return next(cluster for cluster in (*self.clusters, *self.away) if engine in cluster.engines)

    def lose(self, engine: EngineProcess, *, dead: bool) -> ClusterId:
        """Nobody waits for its cluster any more; if it is dead, the next plans are without it."""
        cluster = self.cluster_of(engine)
        self.away.append(cluster)
        if dead:
            self.clusters = [other for other in self.clusters if other is not cluster]
        self._pass_on()
        self.tell(RoundNews(gone=(cluster.name,)))
        return cluster.name

    def take_back(self, engine: EngineProcess) -> None:
        self.away.remove(self.cluster_of(engine))

    def open_round(self) -> None:
        super().open_round()
        self._pass_on()

    def _pass_on(self) -> None:
        plan = self.plans[-1]
        away = {engine.identity.worker_id for cluster in self.away for engine in cluster.engines}
        terms = [plan.term(span) for span in range(len(plan.spans))]
        for span, listed in enumerate(plan.spans):
            while span not in self.reports and listed.reducers[terms[span]] in away:
                terms[span] += 1
        changed = plan.model_copy(update={"terms": tuple(terms), "revision": plan.revision + 1})
        if any(plan.term(span) != term for span, term in enumerate(terms)):
            self.plans[-1] = changed
            self.tell(RoundNews(plans=(changed,)))

    def hear(self, engine: EngineProcess, report: object) -> None:
        if isinstance(report, SpanReduced):
            with self.lock:
                counts = self.on_reduced(self, engine, report.report)
            if not counts:
                return
        super().hear(engine, report)
        if isinstance(report, AnchorReached):
            with self.lock:
                self.on_root(self, report.report.round)
