"""Engines in several clusters, and what a coordinator and agents would do between them: plans, records, storage."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from legion.config import config_digest
from legion.ids import ClusterId, Epoch, WorkerId
from legion.layout import Layout, spans
from legion.messages import Endpoint, Member, ModelShape, Plan
from legion.rounds import Blocks, Participant, RoundPlan, RoundRecord, SpanPlan, SpanRecord, SpanReport
from legion_client.engine.protocol import (
    AnchorReached,
    Listening,
    RoundNews,
    SpanReduced,
    Train,
    UpdateHere,
    UpdateWanted,
)
from tests.client.engine.engine_processes import RUN, WAIT_S, Dataset, EngineProcess, prepared

T = TypeVar("T", bound="Table")


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
    hold: int | None = None  # this round is not opened before `go_on`
    span_count: int = 0  # as many as there are workers in the first round
    fetched_bytes: int = 0  # from storage
    held: threading.Event = field(default_factory=threading.Event)

    @property
    def engines(self) -> list[EngineProcess]:
        return [engine for cluster in self.clusters for engine in cluster.engines]

    def open_round(self) -> None:
        number, config = len(self.records), self.data.config
        each = config.rounds.steps * config.batch.micro_batches * config.batch.micro_batch_blocks
        ring = len(self.clusters)
        total = Layout(self.shape.sizes, (1,)).total
        workers = sorted(engine.identity.worker_id for engine in self.engines)
        self.span_count = self.span_count or len(workers)
        cut = spans(total, self.span_count)
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
                SpanPlan(start=bounds.start, stop=bounds.stop, reducers=_from(place % len(workers), workers))
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
                    self._store(engine, span.digest, path)
                    self._reduced(span)
                case AnchorReached(report=reached):
                    at = self.roots.setdefault(reached.round, set())
                    at.add((reached.cluster, reached.rank, reached.root))
                case UpdateWanted(sha256=sha256):
                    engine.send(UpdateHere(sha256=sha256, path=self._copied(sha256)))

    def _store(self, engine: EngineProcess, sha256: str, path: Path) -> None:
        """Reducers forget their updates after some rounds."""
        kept = engine.folder / f"stored-{sha256}"
        kept.write_bytes(path.read_bytes())
        self.storage[sha256] = kept

    def _copied(self, sha256: str) -> Path | None:
        """From storage, for an engine to take; None while it is not there."""
        source = self.storage.get(sha256)
        if source is None:
            return None
        self.fetched_bytes += source.stat().st_size
        copy = source.with_name(f"{sha256}-{self.fetched_bytes}")
        copy.write_bytes(source.read_bytes())
        return copy

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
            spans=tuple(SpanRecord.of(report, plan.reducer(report.span)) for report in reports),
            bounds=tuple((span.start, span.stop) for span in plan.spans),
            flush=plan.flush,
            tokens=tokens,
            total_tokens=tokens + (self.records[-1].total_tokens if self.records else 0),
            committed_at=0.0,
        )
        self.records.append(record)
        self.reports.clear()
        self.tell(RoundNews(records=(record,)))
        if len(self.records) == self.hold:
            self.held.set()
        elif len(self.records) < self.data.config.round_count:
            self.open_round()

    # Comings and goings.

    def hold_at(self, number: int) -> None:
        with self.lock:
            self.hold = number
            self.held.clear()

    def wait_until_held(self) -> None:
        assert self.held.wait(WAIT_S), f"held at {self.hold}, {len(self.records)} rounds committed"

    def go_on(self, *, until: int | None = None) -> None:
        """Open the round that was held, and hold the next one."""
        with self.lock:
            self.hold = until
            self.held.clear()
            self.open_round()

    def leave(self, name: ClusterId) -> None:
        """Its engines have gone; the others hear of it."""
        with self.lock:
            self.clusters = [cluster for cluster in self.clusters if cluster.name != name]
            self.tell(RoundNews(gone=(name,)))

    def enter(self, engine: EngineProcess, heard: Listening, since: int, **train: Any) -> ClusterId:
        """A cluster of one engine, which has heard what the log has from `since` on, enters with the round held."""
        with self.lock:
            number = len(self.records)
            epoch = Epoch(100 + number)
            name = ClusterId(f"c{epoch}")
            endpoint = Endpoint(host="127.0.0.1", port=heard.port)
            members = (Member(worker_id=engine.identity.worker_id, endpoint=endpoint, share=1),)
            plan = _plan(self.data, name, epoch, members, self.shape).model_copy(update={"round": number})
            plan = plan.model_copy(update={"first_step": train.pop("first_step", 0)})
            self.clusters.append(Cluster(name, epoch, [engine], members))
            engine.on_report = self.hear
            engine.send(Train(plan=plan, **train))
            engine.send(RoundNews(plans=tuple(self.plans[since:]), records=tuple(self.records[since:])))
        return name


def _from(place: int, workers: list[WorkerId]) -> tuple[WorkerId, ...]:
    return (*workers[place:], *workers[:place])


def _plan(data: Dataset, name: ClusterId, epoch: Epoch, members: tuple[Member, ...], shape: ModelShape) -> Plan:
    return Plan(
        run_id=RUN,
        epoch=epoch,
        members=members,
        shape=shape,
        first_step=0,
        config_digest=config_digest(data.config),
        cluster=name,
    )


def _lease(number: int, blocks: int) -> Blocks:
    return Blocks(start=number * blocks, stop=(number + 1) * blocks)


def seated(data: Dataset, clusters: Sequence[Sequence[EngineProcess]], kind: type[T] = Table, **fields: Any) -> T:  # type: ignore[assignment]
    """All engines train, each cluster by its own plan, and round 0 is open. `fields`: of the table."""
    everyone = [engine for cluster in clusters for engine in cluster]
    heard = dict(zip([id(engine) for engine in everyone], prepared(everyone, data), strict=True))
    shape = heard[id(everyone[0])].shape
    table = kind(data, [], shape, data.config.steps, **fields)
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
        plan = _plan(data, cluster.name, cluster.epoch, members, shape)
        for engine in engines:
            engine.on_report = table.hear
            engine.send(Train(plan=plan))
    with table.lock:
        table.open_round()
    return table
