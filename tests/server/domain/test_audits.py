"""Audits: which spans, by whom, what two reports of one span lead to, and who reduces no more."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from coordinated_rounds import SEQ_LEN, Table, config_of
from round_workers import inclusion

from legion.errors import ReportInvalid, RoundConflict
from legion.ids import WorkerId
from legion_server.domain import round_plan
from legion_server.domain import rounds as rd
from legion_server.store.round_parts import changed, joined

GRACE_S = 5.0


def table_of(names: str = "abcd", size: int = 1, **rounds: Any) -> Table:
    table = Table(config_of(len(names), size, **({"audit": 1.0} | rounds)), names)
    table.follow()
    return table


def audit(table: Table, span: int = 0, **changes: Any) -> Any:
    """The auditor's report, of the same as the reducer's but for the changes."""
    return table.report(span, table.plan.spans[span].auditor, stored=False, audit=True, **changes)


def pass_the_others(table: Table, *spans: int) -> None:
    """All spans but these: reported, stored and audited."""
    number = table.plan.round
    for span in range(len(table.plan.spans)):
        if span not in spans:
            assert audit(table, span) is None
            assert table.report(span) is None
    assert table.plan.round == number


# Which spans.


def test_auditors_are_of_another_cluster_and_change() -> None:
    table = table_of("abcdef", size=2)
    cluster_of = {m.worker_id: p.cluster for p in table.plan.participants for m in p.members}
    seen: dict[WorkerId, set[WorkerId]] = {}
    for _ in range(12):
        for number, span in enumerate(table.plan.spans):
            assert span.audited
            assert cluster_of[span.auditor] != cluster_of[span.reducers[0]]
            seen.setdefault(span.reducers[0], set()).add(span.auditor)
            assert audit(table, number) is None
        table.whole_round()
    assert all(len(auditors) > 2 for auditors in seen.values())
    assert table.rounds.counters.audits_passed == 12 * 6


@pytest.mark.parametrize(("names", "size", "share"), [("ab", 1, 1.0), ("abcd", 2, 1.0), ("abcd", 1, 0.0)])
def test_without_a_third_cluster_or_a_share_there_are_none(names: str, size: int, share: float) -> None:
    table = table_of(names, size, audit=share)
    assert not any(span.audited or span.auditor for span in table.plan.spans)


def test_the_share_is_kept_and_the_draw_is_that_of_the_moment() -> None:
    table = table_of("abcdefghij", audit=0.25)
    drawn = [round_plan.publish(table.rounds, table.run, float(at)).rounds.plan for at in range(400)]
    chosen = Counter(bool(span.auditor) for plan in drawn if plan for span in plan.spans)
    assert chosen[True] / sum(chosen.values()) == pytest.approx(0.25, abs=0.03)
    assert len({tuple(span.auditor for span in plan.spans) for plan in drawn if plan}) > 200
    again = round_plan.publish(table.rounds, table.run, 7.0).rounds.plan
    assert again == drawn[7]


# What two reports lead to.


def test_the_same_digest_passes() -> None:
    table = table_of()
    pass_the_others(table, 0)
    assert table.report(0) is None
    assert table.records == []
    assert audit(table) is None
    [record] = table.records
    assert [span.audit for span in record.spans] == ["passed"] * 4
    assert table.rounds.counters.audits_passed == 4


def test_the_auditor_may_be_first() -> None:
    table = table_of()
    pass_the_others(table, 0)
    assert audit(table) is None
    assert audit(table) is None  # again
    assert isinstance(audit(table, digest="f"), RoundConflict)
    assert table.rounds.counters.digests_differ == 1
    assert table.report(0) is None
    assert len(table.records) == 1


def test_another_digest_is_believed_of_neither() -> None:
    table = table_of()
    pass_the_others(table, 0)
    reducer, auditor = table.plan.reducer(0), table.plan.spans[0].auditor
    assert table.report(0, digest="b") is None
    assert audit(table) is None
    assert table.events[-2:] == ["audit_failed", "round_term"]
    third = table.plan.reducer(0)
    assert third not in (reducer, auditor)
    assert (table.plan.term(0), table.plan.spans[0].audited, table.plan.spans[0].auditor) == (1, True, None) or (
        table.plan.term(0) == 2
    )
    assert isinstance(table.report(0, reducer, digest="b", term=0), RoundConflict)
    assert isinstance(table.report(0, auditor, term=0, audit=True), RoundConflict)
    assert table.report(0) is None
    span = table.records[0].spans[0]
    assert (span.audit, span.disputed, span.reducer, span.digest) == ("failed", (reducer, auditor), third, "a" * 64)
    # The third has made what the auditor made.
    assert table.rounds.suspects == {reducer: (auditor,)}
    assert table.rounds.reducers[0] == third
    assert (table.rounds.counters.audits_failed, table.rounds.counters.residuals_lost) == (1, 1)


def test_a_reducer_that_a_third_confirms_keeps_its_span_and_its_name() -> None:
    table = table_of()
    pass_the_others(table, 0)
    reducer, auditor = table.plan.reducer(0), table.plan.spans[0].auditor
    assert table.report(0) is None
    assert audit(table, digest="f") is None
    assert table.report(0) is None
    assert table.rounds.suspects == {auditor: (reducer,)}
    assert table.rounds.reducers[0] == table.plan.reducer(0) == reducer
    assert table.rounds.counters.residuals_lost == 1  # the third's


def test_other_contributions_are_no_contradiction() -> None:
    table = table_of()
    pass_the_others(table, 0)
    some = tuple(inclusion(table.plan, 0, p, SEQ_LEN) for p in table.plan.participants[:-1])
    assert table.report(0) is None
    assert audit(table, digest="f", included=some) is None
    assert table.records[0].spans[0].audit == "inconclusive"
    assert table.records[0].spans[0].digest == "a" * 64
    assert (table.rounds.counters.audits_inconclusive, table.rounds.suspects) == (1, {})


def test_other_clip_scales_of_the_same_contributions_are_one() -> None:
    table = table_of()
    pass_the_others(table, 0)
    report = table.report_of(0)
    clipped = (report.included[0].model_copy(update={"clip_scale": 0.5}), *report.included[1:])
    assert table.report(0, included=clipped) is None
    assert audit(table) is None
    assert table.rounds.counters.audits_failed == 1


def test_another_order_of_the_same_is_the_same() -> None:
    table = table_of()
    pass_the_others(table, 0)
    assert table.report(0, included=table.report_of(0).included[::-1]) is None
    assert audit(table) is None
    assert table.records[0].spans[0].audit == "passed"


def test_a_silent_auditor_is_waited_for_for_a_while() -> None:
    table = table_of()
    pass_the_others(table, 0)
    table.tick(60.0)
    assert table.report(0) is None
    table.tick(GRACE_S - 0.1)
    assert table.records == []
    table.tick(0.1)
    assert table.records[0].spans[0].audit == "silent"
    assert table.rounds.counters.audits_silent == 1
    assert isinstance(table.report(0, table.workers["a" * 32].worker_id, audit=True, round=0, term=0), RoundConflict)


def test_a_gone_auditor_is_not_waited_for() -> None:
    table = table_of()
    pass_the_others(table, 0)
    table.set(table.plan.spans[0].auditor[0], state="leaving")
    assert table.report(0) is None
    assert table.records[0].spans[0].audit == "silent"


def test_a_gone_reducers_span_goes_on_without_an_audit() -> None:
    table = table_of()
    auditor = table.plan.spans[0].auditor
    table.set(table.plan.reducer(0)[0], state="leaving")
    span = table.plan.spans[0]
    assert (table.plan.term(0) > 0, span.audited, span.auditor) == (True, False, None)
    assert isinstance(table.report(0, auditor, audit=True), RoundConflict)
    assert table.rounds.counters.audits_silent >= 1


def test_with_nobody_else_left_the_run_goes_on() -> None:
    table = table_of("abc")
    reducer, auditor = table.plan.reducer(0), table.plan.spans[0].auditor
    [other] = {p.members[0].worker_id for p in table.plan.participants} - {reducer, auditor}
    table.set(other[0], state="leaving")
    assert table.report(0) is None
    assert audit(table, digest="f") is None
    for span in range(1, 3):
        if table.plan.spans[span].auditor:
            assert audit(table, span) is None
        assert table.report(span) is None
    assert table.records[0].spans[0].audit == "failed"
    assert table.rounds.counters.audits_failed == 1


# What an auditor may say.


@pytest.mark.parametrize("change", [{"size_bytes": 10**9}, {"tokens": 10**6}, {"blocks": True}, {"twice": True}])
def test_audits_that_do_not_fit(change: dict[str, Any]) -> None:
    table = table_of()
    report = table.report_of(0)
    first = report.included[0]
    bad: dict[str, Any] = {
        "size_bytes": change,
        "tokens": {"included": (first.model_copy(update={"tokens": 10**6}),)},
        "blocks": {
            "included": (
                first.model_copy(update={"blocks": table.plan.participants[1].members and report.included[1].blocks}),
            )
        },
        "twice": {"included": (first, first)},
    }[next(iter(change))]
    assert isinstance(audit(table, **bad), ReportInvalid)
    assert table.rounds.turns[0].audit is None
    assert table.rounds.counters.reports_refused == 1


def test_audits_of_others_are_refused() -> None:
    table = table_of()
    for worker in set(table.plan.workers) - {table.plan.spans[0].auditor}:
        assert isinstance(table.report(0, worker, audit=True), RoundConflict)
    assert isinstance(table.report(0, table.plan.spans[0].auditor), RoundConflict)  # is not the reducer
    assert table.rounds.counters.conflicts == 4


# Who reduces no more.


def disputed(table: Table, liar: WorkerId, *, third: str) -> None:
    """A round in which `liar`'s updates, and its audits, are another's than all others'; thirds make `third`."""
    number = table.plan.round
    for span in range(len(table.plan.spans)):
        reducer, auditor = table.plan.reducer(span), table.plan.spans[span].auditor
        if auditor is not None:
            assert audit(table, span, digest="f" if auditor == liar else "a") is None
        assert table.report(span, digest="f" if reducer == liar else "a") is None
        if table.rounds.plan and table.plan.round == number and table.rounds.turns[span].dispute:
            assert table.report(span, digest=third) is None
    assert table.rounds.committed == number + 1


def test_a_reducer_that_lies_loses_the_right_to_reduce() -> None:
    table = table_of("abcde")
    liar = WorkerId("c" * 32)
    for _ in range(20):
        disputed(table, liar, third="a")
        if liar in table.rounds.barred:
            break
    assert table.rounds.barred == {liar}
    disputed(table, liar, third="a")  # the plan was made before
    assert liar not in [span.reducers[0] for span in table.plan.spans]
    assert all(liar not in (span.auditor, *span.reducers) for span in table.plan.spans)


@pytest.mark.parametrize("third", ["a", "9"])
def test_an_auditor_that_lies_alone_excludes_nobody_but_itself(third: str) -> None:
    """Even if no third worker ever makes what one of the two made."""
    table = table_of("abcde")
    liar = WorkerId("c" * 32)
    for _ in range(20):
        disputed(table, liar, third=third)
    assert table.rounds.barred == {liar}
    others = {name: found for name, found in table.rounds.suspects.items() if name != liar}
    assert set(others.values()) <= {(liar,)}


def test_where_all_are_barred_somebody_reduces() -> None:
    table = table_of("abc")
    names = list(table.plan.workers)
    suspects = {name: tuple(other for other in names if other != name) for name in names}
    table.rounds_or_none = replace(table.rounds, suspects=suspects)
    assert table.rounds.barred == set(names)
    found = round_plan.publish(table.rounds, table.run, 1.0).rounds.plan
    assert found is not None
    assert {span.reducers[0] for span in found.spans} == set(names)


def test_a_restart_gives_the_auditor_its_time_again() -> None:
    table = table_of()
    pass_the_others(table, 0)
    assert table.report(0) is None
    table.tick(GRACE_S - 0.1)
    table.rounds_or_none = rd.with_patience(table.rounds, table.now)
    table.tick(GRACE_S - 0.1)
    assert table.records == []
    table.tick(1.0)
    assert len(table.records) == 1


def restarted(rounds: rd.Rounds) -> rd.Rounds:
    return joined(changed(None, rounds)[0])


def test_a_dispute_survives_a_restart_of_the_server() -> None:
    table = table_of()
    pass_the_others(table, 0)
    assert table.report(0, digest="b") is None
    assert audit(table) is None
    assert table.rounds.turns[0].dispute is not None
    table.rounds_or_none = restarted(table.rounds)
    assert table.report(0) is None
    assert table.records[0].spans[0].audit == "failed"
    again = restarted(table.rounds)
    assert (again.suspects, again.reducers) == (table.rounds.suspects, table.rounds.reducers)
