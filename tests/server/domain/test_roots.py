"""Which roots count against a worker, and when that is too often."""

from dataclasses import replace

import pytest
from coordinated_rounds import Table, config_of

from legion.ids import ClusterId, WorkerId
from legion.rounds import RootReport
from legion_server.domain import roots
from legion_server.domain.rounds import Rounds, missing

DAY_S = 86_400.0
A = WorkerId("a" * 32)
RIGHT, WRONG = "1" * 64, "2" * 64


def of(anchor: int, root: str) -> RootReport:
    return RootReport(round=anchor, cluster=ClusterId("c1"), rank=0, root=root)


@pytest.fixture
def rounds() -> Rounds:
    return roots.known(replace(Table(config_of(2), "ab").rounds, committed=4), 3, RIGHT)


def test_the_right_root_agrees(rounds: Rounds) -> None:
    verdict = roots.compared(rounds, A, of(3, RIGHT), RIGHT, 0.0)
    assert verdict == (rounds, True, [], False)


def test_twice_in_a_day_is_too_often_and_the_same_anchor_is_once(rounds: Rounds) -> None:
    first = roots.compared(rounds, A, of(2, WRONG), RIGHT, 0.0)
    assert (first.agrees, first.excluded, first.happenings[0].type) == (False, False, "root_mismatch")
    again = roots.compared(first.rounds, A, of(2, WRONG), RIGHT, 1.0)
    assert (again.agrees, again.excluded, again.happenings) == (False, False, [])
    second = roots.compared(again.rounds, A, of(3, WRONG), RIGHT, DAY_S - 1)
    assert (second.agrees, second.excluded) == (False, True)
    assert second.rounds.counters.root_mismatches == 2
    other = roots.compared(again.rounds, WorkerId("b" * 32), of(3, WRONG), RIGHT, 2.0)
    assert not other.excluded


def test_yesterday_is_forgiven(rounds: Rounds) -> None:
    first = roots.compared(rounds, A, of(2, WRONG), RIGHT, 0.0)
    second = roots.compared(first.rounds, A, of(3, WRONG), RIGHT, DAY_S)
    assert (second.agrees, second.excluded) == (False, False)
    assert len(second.rounds.mismatches[A]) == 1


def test_what_cannot_be_compared_yet_waits(rounds: Rounds) -> None:
    verdict = roots.compared(rounds, A, of(4, WRONG), None, 0.0)
    assert verdict.agrees is None
    assert roots.due(verdict.rounds) == []
    later = roots.known(verdict.rounds, 4, RIGHT)
    assert roots.due(later) == [(A, of(4, WRONG))]
    compared = roots.compared(later, A, of(4, WRONG), RIGHT, 0.0)
    assert (compared.agrees, roots.due(compared.rounds)) == (False, [])
    past = roots.compared(rounds, A, of(1, WRONG), None, 0.0)  # so old that nobody knows any more
    assert (past.agrees, dict(past.rounds.waiting_roots)) == (None, {})


def test_a_newer_report_waits_while_an_older_one_is_compared(rounds: Rounds) -> None:
    told = of(5, WRONG).model_copy(update={"refused": {"late": 7}, "damaged": 2})
    waits = roots.compared(rounds, A, told, None, 0.0).rounds
    assert dict(waits.waiting_roots) == {A: of(5, WRONG)}  # what it counted is not kept
    for reference in (None, RIGHT):
        assert roots.compared(waits, A, of(3, RIGHT), reference, 0.0).rounds.waiting_roots == waits.waiting_roots


def test_what_a_worker_counts_is_taken_once_for_an_anchor(rounds: Rounds) -> None:
    told = of(3, RIGHT).model_copy(update={"refused": {"late": 2}, "damaged": 1})
    once = roots.noticed(rounds, A, told)
    assert (once.counters.refused, once.counters.updates_damaged) == ({"late": 2}, 1)
    assert roots.noticed(once, A, told) == once
    assert roots.noticed(once, A, of(4, RIGHT)) == once
    other = roots.noticed(once, WorkerId("b" * 32), told)
    later = roots.noticed(other, A, told.model_copy(update={"round": 4}))
    assert (later.counters.refused, later.counters.updates_damaged) == ({"late": 6}, 3)


def test_an_anchor_that_cannot_be_yet_neither_waits_nor_silences_the_worker(rounds: Rounds) -> None:
    absurd = of(10**9, WRONG).model_copy(update={"refused": {"late": 9}})
    told = roots.compared(roots.noticed(rounds, A, absurd), A, absurd, None, 0.0).rounds
    assert (dict(told.waiting_roots), dict(told.noticed)) == ({}, {})
    assert (told.counters.reports_refused, told.counters.refused) == (1, {})
    later = roots.noticed(told, A, of(4, RIGHT).model_copy(update={"refused": {"late": 2}}))
    assert later.counters.refused == {"late": 2}


def test_an_update_that_was_lost_after_it_was_applied_stays_missing(rounds: Rounds) -> None:
    """Workers that were away still need it."""
    table = Table(config_of(2), "ab")
    for digest in "12":
        for span in (0, 1):
            assert table.report(span, digest=digest) is None
    applied = roots.known(roots.known(table.rounds, 1, RIGHT), 2, RIGHT)
    lost = missing(applied, table.records[0], {"1" * 64}, 0.0)
    assert [name[0] for name in roots.known(lost, 3, RIGHT).awaited] == ["1"]


def test_an_update_that_is_lost_while_it_is_applied_stays_missing() -> None:
    """The assembler has its own copy by then; whoever else needs it does not."""
    table = Table(config_of(2), "ab")
    for span in (0, 1):
        assert table.report(span, digest="1") is None
    lost = missing(table.rounds, table.records[0], {"1" * 64}, 0.0)
    assert [name[0] for name in roots.known(lost, 1, RIGHT).awaited] == ["1"]
