"""Handovers: whose residuals are lost, who is the next reducer, and what a worker that leaves may say."""

from typing import Any

import pytest
from coordinated_rounds import Table, config_of

from legion.errors import ReportInvalid, RoundConflict
from legion.ids import WorkerId
from legion.rounds import HandedSpan, Handover
from legion_server.domain import handovers


def table_of(names: str = "abcd") -> Table:
    """In its second round, in which every span has a residual."""
    table = Table(config_of(len(names)), names)
    table.follow()
    table.whole_round()
    return table


def hand_over(table: Table, span: int = 0, worker: WorkerId | None = None, **changes: Any) -> Any:
    """The span's reducer to the next in its list."""
    plan = table.plan
    heir = changes.pop("heir", None) or plan.spans[span].reducers[plan.term(span) + 1]
    number = changes.pop("round", plan.round)
    handed = HandedSpan(span=span, heir=heir, **changes)
    verdict = handovers.accept(table.rounds, worker or plan.reducer(span), Handover(round=number, spans=(handed,)))
    table.rounds_or_none = verdict.rounds
    table.tick()
    return verdict.refusal


def leave(table: Table, worker: WorkerId) -> None:
    table.set(worker[0], state="leaving")


def finish(table: Table) -> None:
    number = table.plan.round
    for span in range(len(table.plan.spans)):
        if table.rounds.plan is not None and table.plan.round == number and not table.rounds.turns[span].done:
            assert table.report(span) is None
    assert table.rounds.committed == number + 1


def counts(table: Table) -> tuple[int, int]:
    return table.rounds.counters.residuals_lost, table.rounds.counters.residuals_handed


@pytest.mark.parametrize("handed", [True, False])
def test_who_leaves_in_the_middle_of_a_round(*, handed: bool) -> None:
    table = table_of()
    leaver, heir = table.plan.spans[0].reducers[:2]
    if handed:
        assert hand_over(table) is None
        assert hand_over(table) is None  # again
    leave(table, leaver)
    assert table.plan.reducer(0) == heir
    assert counts(table) == (0, int(handed))
    finish(table)
    assert counts(table) == (int(not handed), int(handed))
    assert table.plan.reducer(0) == table.rounds.reducers[0] == heir


@pytest.mark.parametrize("handed", [True, False])
def test_who_leaves_after_its_update_is_in_storage(*, handed: bool) -> None:
    table = table_of()
    leaver, heir = table.plan.spans[0].reducers[:2]
    assert table.report(0) is None
    if handed:
        assert hand_over(table, update="a" * 64) is None
    leave(table, leaver)
    assert table.plan.term(0) == 0
    finish(table)
    assert counts(table) == (int(not handed), int(handed))
    assert not handed or table.plan.spans[0].reducers[0] == heir


def test_who_leaves_with_an_update_that_does_not_come() -> None:
    """What it handed over was of that update."""
    table = table_of()
    leaver = table.plan.reducer(0)
    assert table.report(0, stored=False) is None
    assert hand_over(table, update="a" * 64) is None
    leave(table, leaver)
    finish(table)
    assert counts(table) == (1, 1)


def test_a_heir_that_goes_as_well_loses_it() -> None:
    table = table_of()
    leaver, heir = table.plan.spans[0].reducers[:2]
    assert hand_over(table) is None
    leave(table, leaver)
    leave(table, heir)
    lost_spans = sum(heir == span.reducers[0] for span in table.plan.spans)
    finish(table)
    assert counts(table) == (1 + lost_spans, 1)


def test_a_handover_that_comes_after_its_reducer_is_gone() -> None:
    """As when a member of its cluster was faster to say so."""
    table = table_of()
    leaver, heir = table.plan.spans[0].reducers[:2]
    leave(table, leaver)
    assert hand_over(table, worker=leaver, heir=heir) is None
    assert hand_over(table, worker=leaver, heir=heir) is not None  # is known, and no longer its business
    finish(table)
    assert counts(table) == (0, 1)


def test_a_handover_of_the_round_before() -> None:
    """The worker has not heard of the new plan."""
    table = table_of()
    leaver, heir = table.plan.spans[0].reducers[:2]
    assert hand_over(table, round=0) is None
    assert hand_over(table, span=0, worker=heir, round=0) is None  # not its span: passed over
    leave(table, leaver)
    finish(table)
    assert counts(table) == (0, 1)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"round": 5}, RoundConflict),
        ({"worker": WorkerId("b" * 32)}, RoundConflict),
        ({"worker": WorkerId("z" * 32)}, RoundConflict),
        ({"heir": WorkerId("z" * 32)}, RoundConflict),
        ({"heir": "itself"}, RoundConflict),
        ({"span": 99, "heir": WorkerId("b" * 32), "worker": WorkerId("a" * 32)}, ReportInvalid),
    ],
)
def test_handovers_that_do_not_fit(change: dict[str, Any], kind: type[Exception]) -> None:
    table = table_of()
    change = {name: table.plan.reducer(0) if value == "itself" else value for name, value in change.items()}
    before = table.rounds.turns
    assert isinstance(hand_over(table, **change), kind)
    assert table.rounds.turns == before
    counters = table.rounds.counters
    assert (counters.conflicts, counters.reports_refused) == ((1, 0) if kind is RoundConflict else (0, 1))


def test_a_span_twice_is_refused() -> None:
    table = table_of()
    handed = HandedSpan(span=0, heir=table.plan.spans[0].reducers[1])
    verdict = handovers.accept(table.rounds, table.plan.reducer(0), Handover(round=1, spans=(handed, handed)))
    assert isinstance(verdict.refusal, ReportInvalid)
