"""Engines in several clusters, and what a coordinator and agents would do between them: plans, records, storage."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from legion.config import config_digest
from legion.ids import ClusterId, Epoch
from legion.layout import Layout, spans
from legion.messages import Endpoint, Member, ModelShape, Plan
from legion.rounds import Blocks, Participant, RoundPlan, RoundRecord, SpanPlan, SpanRecord, SpanReport
from legion_client.engine.protocol import AnchorReached, RoundNews, SpanReduced, Train, UpdateHere, UpdateWanted
from tests.client.engine.engine_processes import RUN, Dataset, EngineProcess, prepared


@dataclass
class Cluster:
    """A cluster's engines, in the order of its plan."""

    name: ClusterId
    epoch: Epoch
    engines: Sequence[EngineProcess]
    members: tuple[Member, ...] = ()


@dataclass
class Table:
    """Plays the coordinator: commits a round when every span is reported."""

    data: Dataset
    clusters: list[Cluster]
    shape: ModelShape
    steps: int
    deadline_s: float = 60.0
    records: list[RoundRecord] = field(default_factory=list)
    plans: list[RoundPlan] = field(default_factory=list)
    reports: dict[int, SpanReport] = field(default_factory=dict)
    roots: dict[int, set[tuple[ClusterId, int, str]]] = field(default_factory=dict)
    storage: dict[str, Path] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def engines(self) -> list[EngineProcess]:
        return [engine for cluster in self.clusters for engine in cluster.engines]

    def open_round(self) -> None:
        number, config = len(self.records), self.data.config
        each = config.rounds.steps * config.batch.micro_batches * config.batch.micro_batch_blocks
        ring = len(self.clusters)
        total = Layout(self.shape.sizes, (1,)).total
        workers = sorted(engine.identity.worker_id for engine in self.engines)
        cut = spans(total, len(workers))
        plan = RoundPlan(
            run_id=RUN,
            round=number,
            config_digest=config_digest(config),
            shape=self.shape,
            steps=min(config.rounds.steps, self.steps - number * config.rounds.steps),
            first_step=number * config.rounds.steps,
            participants=tuple(
                Participant(
                    cluster=cluster.name,
                    epoch=cluster.epoch,
                    members=cluster.members,
                    micro_batches=config.batch.micro_batches,
                    blocks=_lease(number * ring + place, each),
                    next_blocks=_lease((number + 1) * ring + place, each),
                    most_tokens=each * config.data.seq_len,
                )
                for place, cluster in enumerate(self.clusters)
            ),
            spans=tuple(
                SpanPlan(start=bounds.start, stop=bounds.stop, reducers=(*workers[place:], *workers[:place]))
                for place, bounds in enumerate(cut)
            ),
            flush=(number + 1) % config.rounds.flush_every == 0 or (number + 1) == config.round_count,
            contribute_s=self.deadline_s / 2,
            deadline_s=self.deadline_s,
        )
        self.plans.append(plan)
        self.tell(RoundNews(plans=(plan,)))

    def tell(self, news: RoundNews) -> None:
        for engine in self.engines:
            engine.send(news)

    def hear(self, engine: EngineProcess, report: object) -> None:
        """From each engine's reader thread."""
        with self.lock:
            match report:
                case SpanReduced(report=span, path=path):
                    self.storage[span.digest] = path
                    self._reduced(span)
                case AnchorReached(report=reached):
                    at = self.roots.setdefault(reached.round, set())
                    at.add((reached.cluster, reached.rank, reached.root))
                case UpdateWanted(sha256=sha256):
                    engine.send(UpdateHere(sha256=sha256, path=None))

    def _reduced(self, report: SpanReport) -> None:
        plan = self.plans[-1]
        if report.round != plan.round or report.term != plan.term(report.span):
            return
        self.reports[report.span] = report
        if len(self.reports) == len(plan.spans):
            self._commit(plan)

    def _commit(self, plan: RoundPlan) -> None:
        reports = [self.reports[span] for span in range(len(plan.spans))]
        tokens = max(sum(inclusion.tokens for inclusion in report.included) for report in reports)
        record = RoundRecord(
            run_id=RUN,
            round=plan.round,
            spans=tuple(
                SpanRecord(
                    term=report.term,
                    reducer=plan.reducer(report.span),
                    digest=report.digest,
                    size_bytes=report.size_bytes,
                    included=report.included,
                )
                for report in reports
            ),
            bounds=tuple((span.start, span.stop) for span in plan.spans),
            flush=plan.flush,
            tokens=tokens,
            total_tokens=tokens + (self.records[-1].total_tokens if self.records else 0),
            committed_at=0.0,
        )
        self.records.append(record)
        self.reports.clear()
        self.tell(RoundNews(records=(record,)))
        if len(self.records) < self.data.config.round_count:
            self.open_round()


def _lease(number: int, blocks: int) -> Blocks:
    return Blocks(start=number * blocks, stop=(number + 1) * blocks)


def seated(data: Dataset, clusters: Sequence[Sequence[EngineProcess]]) -> Table:
    """All engines train, each cluster by its own plan, and round 0 is open."""
    everyone = [engine for cluster in clusters for engine in cluster]
    heard = dict(zip([id(engine) for engine in everyone], prepared(everyone, data), strict=True))
    shape = heard[id(everyone[0])].shape
    table = Table(data, [], shape, data.config.steps)
    for number, engines in enumerate(clusters, start=1):
        members = tuple(
            Member(
                worker_id=engine.identity.worker_id,
                endpoint=Endpoint(host="127.0.0.1", port=heard[id(engine)].port),
                share=1 + rank,
            )
            for rank, engine in enumerate(engines)
        )
        cluster = Cluster(ClusterId(f"c{number}"), Epoch(number), engines, members)
        table.clusters.append(cluster)
        plan = Plan(
            run_id=RUN,
            epoch=cluster.epoch,
            members=members,
            shape=shape,
            first_step=0,
            config_digest=config_digest(data.config),
            cluster=cluster.name,
        )
        for engine in engines:
            engine.on_report = table.hear
            engine.send(Train(plan=plan))
    with table.lock:
        table.open_round()
    return table
