"""Blocks on loan: sets of numbers are the reference."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from legion.rounds import Blocks
from legion_server.domain import leases
from legion_server.domain.leases import Pool

PAIRS = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted)
RANGES = st.lists(PAIRS.map(lambda pair: Blocks(start=pair[0], stop=pair[1])), max_size=6)


def numbers(ranges: object) -> set[int]:
    return {n for one in ranges for n in range(one.start, one.stop)}  # type: ignore[attr-defined]


@given(RANGES, RANGES)
def test_ranges_are_sets(some: list[Blocks], others: list[Blocks]) -> None:
    assert numbers(leases.joined(some)) == numbers(some)
    assert numbers(leases.minus(some, others)) == numbers(some) - numbers(others)
    assert numbers(leases.overlap(some, others)) == numbers(some) & numbers(others)
    assert leases.count(some) == len(numbers(some))
    for found in (leases.joined(some), leases.minus(some, others), leases.overlap(some, others)):
        assert all(before.stop < after.start for before, after in itertools.pairwise(found))
        assert all(len(one) for one in found)


class Loans(RuleBasedStateMachine):
    """Every block is in one hand at a time, and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()
        self.out: list[Blocks] = []

    @rule(count=st.integers(1, 9))
    def take(self, count: int) -> None:
        self.pool, lease = leases.take(self.pool, count)
        assert len(lease) == count
        self.out.append(lease)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        lease = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        middle = data.draw(st.integers(lease.start, lease.stop))
        part = Blocks(start=lease.start, stop=middle)
        self.out += [rest for rest in [Blocks(start=middle, stop=lease.stop)] if len(rest)]
        self.pool = leases.give_back(self.pool, [part])

    @invariant()
    def every_block_is_in_one_place(self) -> None:
        places = [n for one in (*self.out, *self.pool.returned) for n in range(one.start, one.stop)]
        assert sorted(places) == list(range(self.pool.fresh))

    @invariant()
    def what_comes_back_is_used_again(self) -> None:
        if self.pool.returned:
            _, lease = leases.take(self.pool, len(self.pool.returned[-1]))
            assert lease.stop <= self.pool.fresh


TestLoans = Loans.TestCase
