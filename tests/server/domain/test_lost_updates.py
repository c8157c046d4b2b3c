"""Who is asked for an update that storage has lost, and when."""

import itertools

import pytest
from coordinated_rounds import Table, config_of

from legion.ids import WorkerId
from legion_server.domain import rounds as rd
from legion_server.domain.lost_updates import PATIENCE_S, asked_of

NAMES = "abcdefghij"
LOST, KEPT = "1" * 64, "2" * 64


@pytest.fixture
def table() -> Table:
    """Ten workers, and a committed round whose updates all have one name."""
    table = Table(config_of(len(NAMES)), NAMES)
    for span in range(len(table.plan.spans)):
        assert table.report(span, digest="1") is None
    table.rounds_or_none = rd.missing(table.rounds, table.records[0], {LOST}, 100.0)
    return table


def asked(table: Table, now: float) -> set[str]:
    members = [WorkerId(name * 32) for name in NAMES]
    return {worker[0] for worker in members if asked_of(table.rounds, table.run, worker, now) == (LOST,)}


def test_its_reducer_is_asked_first_and_then_ever_more(table: Table) -> None:
    reducer = table.rounds.awaited[LOST].reducer
    found = [asked(table, 100.0 + PATIENCE_S * waited) for waited in (-1, 0, 0.9, 1, 2, 3, 4, 1e9)]
    assert [len(names) for names in found] == [1, 1, 1, 2, 4, 8, 10, 10]
    assert all(earlier <= later for earlier, later in itertools.pairwise(found))
    assert found[0] == {reducer[0]}


def test_a_reducer_that_is_gone_is_not_waited_for(table: Table) -> None:
    reducer = table.rounds.awaited[LOST].reducer
    table.set(reducer[0], state="offline", endpoint=None)
    assert len(asked(table, 100.0)) == 1
    assert reducer[0] not in asked(table, 1e9)


def test_looking_for_it_again_does_not_begin_the_wait_anew(table: Table) -> None:
    again = rd.missing(table.rounds, table.records[0], {LOST}, 1000.0)
    assert again.awaited == table.rounds.awaited
    assert rd.missing(table.rounds, table.records[0], {KEPT}, 1000.0) == table.rounds, "the log does not name it"


def test_once_it_is_there_nobody_is_asked(table: Table) -> None:
    table.rounds_or_none = rd.stored(table.rounds, LOST)
    assert asked(table, 1e9) == set()
