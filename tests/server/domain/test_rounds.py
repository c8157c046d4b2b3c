"""Rounds by hand: plans, reports, terms, commits, and clusters that come and go."""

from dataclasses import replace
from typing import Any

import pytest
from coordinated_rounds import SEQ_LEN, SHAPE, Table, a_worker, config_of
from round_workers import inclusion

from legion.errors import ReportInvalid, RoundConflict
from legion.ids import ClusterId, Epoch, WorkerId
from legion.messages import Broken, Endpoint
from legion.rounds import Blocks
from legion_server.domain import round_plan, span_reports
from legion_server.domain import rounds as rd


def test_the_first_plan() -> None:
    table = Table(config_of(4, size=2), "dcba")
    plan = table.plan
    assert [[m.worker_id[0] for m in p.members] for p in plan.participants] == [["a", "b"], ["c", "d"]]
    assert [p.cluster for p in plan.participants] == ["c1", "c2"]
    assert (plan.round, plan.revision, plan.first_step, plan.steps) == (0, 0, 0, 2)
    assert [len(p.blocks) for p in plan.participants] == [2 * 2 * 3, 2 * 2 * 3]
    assert [p.most_tokens for p in plan.participants] == [12 * SEQ_LEN] * 2
    assert len(plan.spans) == 4
    assert [span.reducers[0][0] for span in plan.spans] == ["a", "b", "c", "d"]
    for span in plan.spans:
        assert {r[0] in "ab" for r in span.reducers[1:]} == {span.reducers[0][0] in "cd"}
    assert plan.contribute_s < plan.deadline_s == 100.0
    assert [(plan.cluster, plan.epoch, plan.round) for plan in table.run.clusters] == [("c1", 1, 0), ("c2", 2, 0)]


@pytest.mark.parametrize(
    ("total", "workers", "count"),
    [
        (4096, 4, 4),
        (900_000, 4, 4),
        (rd.SPAN_VALUES * 8 - 1, 4, 4),
        (rd.SPAN_VALUES * 8, 4, 8),
        (10_000_000, 4, 16),
        (10**9, 4, 16),
        (10**9, 20, 64),
        (10**9, 100, 64),
        (10**9, 1, 4),
    ],
)
def test_spans_are_several_each_where_they_are_large(total: int, workers: int, count: int) -> None:
    assert rd.span_count(total, workers) == count


def test_a_rest_smaller_than_a_cluster_waits() -> None:
    table = Table(config_of(5, size=2), "abcde")
    assert [len(plan.members) for plan in table.run.clusters] == [2, 2]
    assert table.run.phase == "training"
    few = Table(config_of(1, size=2), "a")
    assert (few.run.phase, few.run.clusters) == ("waiting", ())


def test_a_short_last_round() -> None:
    config = config_of(2, steps=3)
    table = Table(config, "ab")
    assert config.round_count == 14
    assert [rd.steps_of(config, n) for n in (0, 12, 13, 14)] == [3, 3, 1, 0]
    assert [rd.step_at(config, n) for n in (0, 13, 14)] == [0, 39, 40]
    assert round_plan.flushes(config, 13)
    assert table.plan.steps == 3


@pytest.mark.parametrize(
    ("change", "kind", "counter"),
    [
        ({"round": 1}, RoundConflict, "conflicts"),
        ({"term": 1}, RoundConflict, "conflicts"),
        ({"worker": WorkerId("b" * 32)}, RoundConflict, "conflicts"),
        ({"span": 7}, ReportInvalid, "reports_refused"),
        ({"size_bytes": 10**9}, ReportInvalid, "reports_refused"),
    ],
)
def test_reports_that_do_not_fit(change: dict[str, Any], kind: type[Exception], counter: str) -> None:
    table = Table(config_of(2), "ab")
    worker = change.pop("worker", table.plan.reducer(0))
    report = table.report_of(0).model_copy(update=change)
    verdict = span_reports.accept(table.rounds, table.run.config, worker, report)
    assert isinstance(verdict.refusal, kind)
    assert getattr(verdict.rounds.counters, counter) == 1
    assert not any(turn.report for turn in verdict.rounds.turns)


@pytest.mark.parametrize(
    "change",
    [
        {"cluster": "c9"},
        {"tokens": 12 * SEQ_LEN + 1},
        {"parts": ("0" * 64, "1" * 64)},
        {"blocks": (Blocks(start=0, stop=12), Blocks(start=500, stop=501))},
        {"blocks": (Blocks(start=0, stop=1),) * 300},
    ],
)
def test_inclusions_that_do_not_fit(change: dict[str, Any]) -> None:
    table = Table(config_of(2), "ab")
    bad = inclusion(table.plan, 0, table.plan.participants[0], SEQ_LEN, **change)
    assert isinstance(table.report(0, included=(bad,)), ReportInvalid)
    assert table.rounds.counters.reports_refused == 1
    twice = inclusion(table.plan, 0, table.plan.participants[0], SEQ_LEN)
    assert isinstance(table.report(0, included=(twice, twice)), ReportInvalid)


def test_the_same_report_is_fine_and_another_digest_is_not() -> None:
    table = Table(config_of(2), "ab")
    assert table.report(0) is None
    before = table.rounds
    assert table.report(0) is None
    assert table.rounds == before
    assert isinstance(table.report(0, digest="b"), RoundConflict)
    assert table.rounds.turns[0].report == before.turns[0].report
    assert (table.rounds.counters.digests_differ, table.rounds.counters.conflicts) == (1, 0)


def test_updates_below_the_quorum_are_counted() -> None:
    table = Table(config_of(3), "abc")
    table.follow()
    p = table.plan.participants
    for span, included in enumerate(((p[0],), (p[0], p[1]), ())):
        assert table.report(span, included=tuple(inclusion(table.plan, span, one, SEQ_LEN) for one in included)) is None
    assert table.rounds.counters.below_quorum == 2
    assert table.rounds.counters.empty_spans == 1


def test_a_gone_reducers_span_is_the_next_ones_at_once() -> None:
    table = Table(config_of(3), "abc")
    table.follow()
    assert table.report(0) is None
    assert table.report(1) is None
    assert [turn.stored for turn in table.rounds.turns] == [True, True, False]
    table.set("c", state="leaving")
    assert rd.gone(table.plan, table.run.clusters) == ("c3",)
    assert table.plan.revision == 1
    assert table.plan.terms == (0, 0, 1)
    assert table.plan.reducer(2) in table.plan.workers
    assert table.events[-2:] == ["round_plan", "round_term"]
    assert isinstance(table.report(2, worker=WorkerId("c" * 32), term=0), RoundConflict)
    assert table.report(2) is None
    assert table.records[0].spans[2].term == 1
    # What the gone one had sent was still counted; the next round is without it.
    assert len(table.records[0].spans[0].included) == 3
    assert [p.cluster for p in table.plan.participants] == ["c1", "c2"]
    assert table.rounds.counters.residuals_lost == 1


def test_a_report_whose_update_went_with_its_reducer_is_void() -> None:
    table = Table(config_of(3), "abc")
    table.follow()
    for span in (0, 1):
        assert table.report(span, digest=str(span), stored=span == 0) is None
    table.set("a", state="leaving")
    assert table.plan.terms == ()  # it is in storage
    table.set("b", state="leaving")
    assert table.plan.terms == (0, 2, 0)  # the second in the list is gone as well
    assert table.plan.reducer(1) == WorkerId("c" * 32)
    assert table.rounds.turns[1].report is None


def test_a_round_is_committed_with_the_last_of_its_updates() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    for span in (0, 1):
        assert table.report(span, digest=str(span), stored=False) is None
    assert table.records == []
    for span in (1, 0):
        table.rounds_or_none = rd.stored(table.rounds, str(span) * 64)
        table.tick()
        assert len(table.records) == 1 - span
    assert dict(table.rounds.awaited) == {}


def test_who_reports_and_never_delivers_loses_its_term() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    assert table.report(0, stored=False) is None
    table.tick(100.0 * rd.PATIENCE + 5.1)
    assert table.plan.terms == (1, 1)
    assert table.rounds.turns[0].report is None
    assert table.rounds.counters.undelivered == 1


def test_a_silent_reducer_loses_its_term_and_lists_grow() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    limit_s = 100.0 * rd.PATIENCE + 5.0
    assert table.report(1) is None
    for term in range(1, 6):
        table.tick(limit_s - 1)
        assert table.plan.term(0) == term - 1
        table.tick(1.1)
        assert table.plan.term(0) == term
        assert table.plan.term(1) == 0
        assert table.plan.reducer(0) in table.plan.workers
    assert len(table.plan.spans[0].reducers) == 6
    assert table.report(0) is None
    assert table.records[0].spans[0].term == 5
    assert table.plan.spans[0].reducers[0] == table.records[0].spans[0].reducer  # who managed goes on


def test_a_term_after_silence_has_twice_the_time_and_a_flush_all_of_it() -> None:
    """Deadlines come from the rounds before; a dense round after sparse ones would never arrive in time."""
    table = Table(config_of(2, deadline_s=1000.0, feedback="residual", flush_every=3), "ab")
    table.follow()
    assert table.plan.deadline_s == 1000.0
    table.tick(10.0)
    table.whole_round()
    assert table.plan.deadline_s == 40.0
    for deadline_s in (80.0, 160.0, 320.0, 640.0, 1000.0, 1000.0):
        assert table.report(0) is None
        table.tick(table.plan.deadline_s * rd.PATIENCE + 5.1)
        assert table.plan.deadline_s == deadline_s
    table.set("b" if table.plan.reducer(1) == WorkerId("b" * 32) else "a", state="offline")
    assert table.plan.deadline_s == 1000.0
    assert table.report(1) is None
    assert (table.plan.round, table.plan.flush, table.plan.deadline_s) == (2, True, 1000.0)


def test_all_gone_and_back() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    assert table.report(0, stored=False) is None
    for name in "ab":
        table.set(name, state="offline")
    assert (table.run.phase, table.run.clusters) == ("training", ())
    table.tick(10_000)
    assert table.plan.revision == 1  # span 0 was the other one's for a moment
    table.set("b", state="ready", epoch=0)
    assert (table.plan.round, table.plan.revision) == (0, 2)
    assert [p.cluster for p in table.plan.participants] == ["c3"]
    assert not any(turn.report for turn in table.rounds.turns)
    assert table.plan.participants[0].most_tokens > 0  # nobody is there who would be weighed down
    table.follow()
    table.whole_round()
    assert table.records[0].round == 0
    assert table.rounds.counters.clusters_lost == 2


def test_who_joins_later_enters_with_the_next_round_and_weighs_nothing_at_first() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    table.whole_round()
    table.workers[WorkerId("c" * 32)] = a_worker("c")
    table.tick()
    assert [plan.round for plan in table.run.clusters] == [0, 0, 2]
    assert len(table.plan.participants) == 2
    table.follow()
    table.whole_round()
    newcomer = table.plan.participants[2]
    assert (newcomer.cluster, newcomer.most_tokens) == ("c3", 0)
    assert len(newcomer.blocks) == len(newcomer.next_blocks) == 12
    table.whole_round()
    assert table.plan.participants[2].most_tokens > 0


def test_new_identities_weigh_a_fifth_and_do_not_reduce() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    known = {WorkerId(name * 32): rd.TRUSTED_AFTER for name in "ab"}
    table.rounds_or_none = replace(table.rounds, accepted=known)
    for name in "cdef":
        table.workers[WorkerId(name * 32)] = a_worker(name)
    for _ in range(2):
        table.tick()
        table.follow()
        table.whole_round()
    most = {p.members[0].worker_id[0]: p.most_tokens for p in table.plan.participants}
    assert len(most) == 6
    new, old = (sum(most[name] for name in names) for names in ("cdef", "ab"))
    assert 0 < new <= 0.2 * (new + old)
    assert {r[0] for span in table.plan.spans for r in span.reducers} == {"a", "b"}


def test_a_cluster_of_many_is_lost_with_one_member_and_forms_anew() -> None:
    table = Table(config_of(4, size=2), "abcd")
    table.follow()
    table.set("a", lost_peer=WorkerId("b" * 32), broken=Broken(epoch=Epoch(1)))  # and has no restore point
    assert [plan.cluster for plan in table.run.clusters] == ["c2"]
    assert "cluster_lost" in table.events
    for name in "ab":
        table.set(name, state="ready", epoch=0, lost_peer=None, dropped_epoch=1, broken=None)
    assert [(plan.cluster, plan.round) for plan in table.run.clusters] == [("c2", 0), ("c3", 1)]


def test_a_member_that_had_not_heard_of_its_plan_must_say_again_that_it_is_ready() -> None:
    table = Table(config_of(2, size=2), "ab")
    table.set("b", state="offline")
    assert table.workers[WorkerId("a" * 32)].state == "joining"
    table.workers[WorkerId("c" * 32)] = a_worker("c")
    table.tick()
    assert table.run.clusters == ()
    table.set("a", state="ready", endpoint=Endpoint(host="h", port=2), shape=SHAPE)
    assert [len(plan.members) for plan in table.run.clusters] == [2]


def test_tokens_are_bounded_by_measured_speed_since_the_last_contribution() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    table.now = 10.0
    for cluster in ("c1", "c2"):  # 0.6 of what they have leased, in ten seconds
        speed = 0.6 * 12 * SEQ_LEN / 10.0
        table.rounds_or_none = rd.measured(table.rounds, ClusterId(cluster), round(speed * 1000), 1000.0)
    first = table.plan.participants[0]
    for span in (0, 1):
        assert table.report(span, included=(inclusion(table.plan, span, first, SEQ_LEN),)) is None
    assert table.rounds.round_s == 10.0
    bounded = 1.5 * 0.6 * 12 * SEQ_LEN
    assert [p.most_tokens for p in table.plan.participants] == pytest.approx([bounded, 2 * bounded], abs=2)


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ([None, None], [4, 4]),
        ([1.0, 3.0], [2, 6]),
        ([1.0, 1000.0, 1000.0], [1, 5, 6]),
        ([1e-9, None, 1e9], [1, 4, 7]),
        ([None], [4]),
        ([100.0, 200.0, None], [3, 5, 4]),
    ],
)
def test_micro_batches_follow_speed(speeds: list[float | None], expected: list[int]) -> None:
    found = round_plan.micro_batches(4, speeds)
    assert sum(found) == 4 * len(speeds)
    assert found == expected


def test_deadlines_follow_measured_rounds() -> None:
    config = config_of(2)
    assert round_plan.times(config, None) == (50.0, 100.0)
    assert round_plan.times(config, 0.01) == (15.0, 30.0)
    assert round_plan.times(config, 20.0) == (40.0, 80.0)
    assert round_plan.times(config, 1000.0) == (50.0, 100.0)
