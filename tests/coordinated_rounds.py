"""A run in rounds and its workers as the coordinator's pure functions see them, moved by hand."""

from dataclasses import replace
from typing import Any

from round_workers import inclusion

from legion.config import RunConfig
from legion.ids import RunId, WorkerId
from legion.messages import Endpoint, Hardware, ModelShape, TensorShape, UnitShape
from legion.rounds import RoundRecord, SpanReport
from legion_server.domain import averaging, span_reports
from legion_server.domain import rounds as rd
from legion_server.domain.links import Links
from legion_server.domain.membership import Worker
from legion_server.domain.rounds import Rounds
from legion_server.domain.runs import Run, Stored

SHAPE = ModelShape(
    units=tuple(
        UnitShape(name=f"u{size}", tensors=(TensorShape(name=f"w{size}", shape=(size,)),)) for size in (20_000, 1, 9000)
    )
)
HARDWARE = Hardware(os="Linux", cpu_count=1, memory_bytes=2**30, free_disk_bytes=1, legion_version="0")
NOTHING = Stored()
SEQ_LEN = 8


def config_of(workers: int, size: int = 1, **rounds: Any) -> RunConfig:
    body = {
        "cluster": {"policy": "fixed", "size": size},
        "rounds": {"steps": 2, "deadline_s": 100.0, "grace_s": 5.0, "audit": 0.0} | rounds,
        "steps": 40,
        "start": {"workers": workers},
        "batch": {"micro_batches": 2, "micro_batch_blocks": 3},
        "data": {"seq_len": SEQ_LEN},
    }
    return RunConfig.model_validate(body)


def a_worker(name: str, **changes: Any) -> Worker:
    fields: dict[str, Any] = {
        "worker_id": WorkerId(name * 32),
        "name": name,
        "hardware": HARDWARE,
        "token_sha256": name,
        "enrolled_at": 0.0,
        "last_seen": 0.0,
        "certificate_until": 1e12,
        "state": "ready",
        "endpoint": Endpoint(host="h", port=1),
        "shape": SHAPE,
    }
    return Worker(**(fields | changes))


class Table:
    """A run and its workers, as the coordinator would hold them."""

    def __init__(self, config: RunConfig, names: str) -> None:
        self.now = 0.0
        self.run = Run(RunId("run-1"), config)
        self.rounds_or_none: Rounds | None = None
        self.workers = {worker.worker_id: worker for worker in map(a_worker, names)}
        self.records: list[RoundRecord] = []
        self.events: list[str] = []
        self.links: Links = {}
        self.tick()

    @property
    def rounds(self) -> Rounds:
        assert self.rounds_or_none is not None
        return self.rounds_or_none

    @property
    def plan(self) -> Any:
        assert self.rounds.plan is not None
        return self.rounds.plan

    def tick(self, after_s: float = 0.0) -> None:
        self.now += after_s
        moment = averaging.tick(self.run, self.rounds_or_none, self.workers, self.now, NOTHING, self.links)
        self.run, self.rounds_or_none = moment.run, moment.rounds
        self.records += [moment.record] if moment.record else []
        self.events += [happening.type for happening in moment.happenings]
        for worker in moment.heard_anew:
            self.workers[worker.worker_id] = worker
        again = averaging.tick(self.run, self.rounds_or_none, self.workers, self.now, NOTHING, self.links)
        assert (again.run, again.rounds, again.record, again.happenings) == (self.run, self.rounds_or_none, None, [])

    def set(self, name: str, **changes: Any) -> None:
        worker_id = WorkerId(name * 32)
        self.workers[worker_id] = replace(self.workers[worker_id], **changes)
        self.tick()

    def follow(self) -> None:
        """Everybody trains by the plan that names it."""
        for plan in self.run.clusters:
            for member in plan.members:
                worker = self.workers[member.worker_id]
                self.workers[member.worker_id] = replace(worker, state="training", epoch=plan.epoch)

    def report_of(self, span: int, digest: str = "a", **changes: Any) -> SpanReport:
        plan = self.plan
        included = tuple(inclusion(plan, span, p, SEQ_LEN) for p in plan.participants if p.most_tokens)
        body = {
            "round": plan.round,
            "span": span,
            "term": plan.term(span),
            "digest": digest * 64,
            "size_bytes": 10,
            "included": included,
        }
        return SpanReport.model_validate(body | changes)

    def report(self, span: int, worker: WorkerId | None = None, *, stored: bool = True, **changes: Any) -> Any:
        """`stored`: with its update in storage, if it is accepted."""
        report = self.report_of(span, **changes)
        verdict = span_reports.accept(self.rounds, self.run.config, worker or self.plan.reducer(span), report)
        self.rounds_or_none = verdict.rounds
        if stored and verdict.refusal is None:
            self.rounds_or_none = rd.stored(verdict.rounds, report.digest)
        self.tick()
        return verdict.refusal

    def whole_round(self) -> None:
        for span in range(len(self.plan.spans)):
            assert self.report(span) is None
