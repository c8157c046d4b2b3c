"""A clock that is set: what is a jump, and that nobody is thought silent for it."""

from hypothesis import given
from hypothesis import strategies as st

from legion_server.domain import membership
from legion_server.domain.clock_jumps import JUMP_S, Clocks, patient
from tests.coordinated_rounds import Table, config_of

NOW = 1_700_000_000.0


@given(st.floats(0, 1e7), st.floats(-1e9, 1e9))
def test_time_that_passes_is_no_jump_and_what_does_not_is(passed_s: float, set_by_s: float) -> None:
    before = Clocks(NOW, 5.0)
    assert Clocks(NOW + passed_s, 5.0 + passed_s).jump_s(before) == 0.0
    found = Clocks(NOW + passed_s + set_by_s, 5.0 + passed_s).jump_s(before)
    if abs(set_by_s) > JUMP_S + 1e-3:
        assert abs(found - set_by_s) < 1e-3
    elif abs(set_by_s) < JUMP_S - 1e-3:
        assert found == 0.0


@given(st.floats(-1e8, 1e8).filter(lambda by_s: abs(by_s) >= JUMP_S))
def test_a_round_goes_on_as_if_nothing_had_happened(by_s: float) -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    assert table.plan.round == 0
    table.now += by_s
    table.run, table.workers, table.rounds_or_none = patient(table.run, table.workers, table.rounds, table.now)
    table.tick()
    assert membership.expire(table.workers, table.now) == ([], [])
    assert (table.plan.round, table.plan.revision) == (0, 0), "and no reducer has lost its span"
    table.whole_round()
    assert [record.round for record in table.records] == [0]
