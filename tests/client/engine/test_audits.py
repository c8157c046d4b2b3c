"""Real engines whose updates are combined twice, one of which lies; and one that leaves in good order."""

from dataclasses import dataclass, field

from legion.rounds import RoundPlan, SpanReport
from legion_client.engine.protocol import HandedOver, Left, RoundNews, SpanReduced, Stop
from legion_server.domain.disputes import agree, same_work
from tests.client.engine.disturbed_table import DisturbedTable
from tests.client.engine.engine_processes import Dataset, EngineProcess, Engines, with_config
from tests.client.engine.round_table import seated
from tests.client.engine.test_rounds import assert_equal_anchors

IN_LOSSY_ROUNDS = {"steps": 2, "quorum": 1.0, "update_codec": "int4"}
LIES_IN_ROUND_1 = """
import hashlib
import numpy as np
from legion.outer.log import blob_of
from legion.outer.reducer import SpanReducer

honest = SpanReducer.reduce

def lie(self, residual, codec):
    blob, report, dropped = honest(self, residual, codec)
    if self.plan.round == 1 and not self.audit:
        blob = blob_of(codec, np.full(len(self.bounds), 0.01, np.float32))
        digest = hashlib.sha256(blob).hexdigest()
        report = report.model_copy(update={"digest": digest, "size_bytes": len(blob)})
    return blob, report, dropped

SpanReducer.reduce = lie
"""


@dataclass
class AuditedTable(DisturbedTable):
    """Every span has an auditor, the second in its list; a third decides between two digests."""

    pairs: dict[tuple[int, int], dict[bool, SpanReport]] = field(default_factory=dict)
    passed: int = 0
    failed: list[tuple[SpanReport, SpanReport]] = field(default_factory=list)

    def tell(self, news: RoundNews) -> None:
        if news.plans and news.plans[0].revision == 0:
            self.plans[-1] = _audited(news.plans[0])
            news = news.model_copy(update={"plans": (self.plans[-1],)})
        super().tell(news)

    def hear(self, engine: EngineProcess, report: object) -> None:
        if not isinstance(report, SpanReduced):
            super().hear(engine, report)
            return
        with self.lock:
            if not report.report.audit:
                self._store(engine, report.report.digest, report.path)
            self._judge(report.report)

    def _judge(self, report: SpanReport) -> None:
        plan = self.plans[-1]
        if (report.round, report.term) != (plan.round, plan.term(report.span)):
            return
        if plan.spans[report.span].auditor is None:
            self._reduced(report)
            return
        pair = self.pairs.setdefault((report.round, report.span), {})
        pair[report.audit] = report
        if len(pair) < 2:
            return
        assert same_work(pair[False], pair[True])
        if agree(pair[False], pair[True]):
            self.passed += 1
            self._reduced(pair[False])
        else:
            self.failed.append((pair[False], pair[True]))
            self._ask_a_third(plan, report.span)

    def _ask_a_third(self, plan: RoundPlan, span: int) -> None:
        terms = [2 if other == span else plan.term(other) for other in range(len(plan.spans))]
        decided = plan.spans[span].model_copy(update={"auditor": None})
        changed = plan.model_copy(
            update={
                "terms": tuple(terms),
                "revision": plan.revision + 1,
                "spans": (*plan.spans[:span], decided, *plan.spans[span + 1 :]),
            }
        )
        self.plans[-1] = changed
        self.tell(RoundNews(plans=(changed,)))


def _audited(plan: RoundPlan) -> RoundPlan:
    spans = [span.model_copy(update={"audited": True, "auditor": span.reducers[1]}) for span in plan.spans]
    return plan.model_copy(update={"spans": tuple(spans)})


def test_processes_make_the_same_and_one_that_lies_is_caught(engines: Engines, text_data: Dataset) -> None:
    data = with_config(text_data, cluster={"policy": "fixed", "size": 1}, steps=8, rounds=IN_LOSSY_ROUNDS)
    three = engines.start(3, patches={1: LIES_IN_ROUND_1})
    table = seated(data, [[engine] for engine in three], AuditedTable)
    assert [engine.ended() for engine in three] == [0, 0, 0], "".join(engine.log for engine in three)
    assert_equal_anchors(table, three)
    assert table.passed == 4 * 3 - 1
    [(lie, audit)] = table.failed
    committed = table.records[1].spans[lie.span]
    assert lie.round == 1
    assert (committed.term, committed.digest) == (2, audit.digest)
    assert lie.digest not in {span.digest for record in table.records for span in record.spans}


def test_a_reducer_that_is_stopped_hands_its_residuals_over(engines: Engines, text_data: Dataset) -> None:
    data = with_config(text_data, cluster={"policy": "fixed", "size": 1}, steps=12, rounds=IN_LOSSY_ROUNDS)
    three = engines.start(3)
    table = seated(data, [[engine] for engine in three], DisturbedTable, hold=3)
    table.wait_until_held()
    leaver, *others = three
    leaver.send(Stop(reason="its user wants it back"))
    handover = leaver.wait_for(HandedOver).handover
    leaver.wait_for(Left)
    assert leaver.ended() == 0
    mine = leaver.identity.worker_id
    plan = table.plans[-1]
    spans = [span for span in range(3) if plan.reducer(span) == mine]
    assert [handed.span for handed in handover.spans] == spans != []
    heirs = {engine.identity.worker_id: engine for engine in others}
    for handed in handover.spans:
        assert handed.heir == plan.spans[handed.span].reducers[1]
        assert f"residual taken round={handover.round} span={handed.span} from={mine}" in heirs[handed.heir].log
    with table.lock:
        table.lose(leaver, dead=True)
    table.go_on()
    assert [engine.ended() for engine in others] == [0, 0], "".join(engine.log for engine in three)
    assert_equal_anchors(table, others)
