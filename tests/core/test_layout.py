"""Every element has exactly one owner, in every layout; checked by enumeration."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from legion.errors import ConfigInvalid
from legion.ids import Rank, UnitId
from legion.layout import CHUNK, Bounds, Layout, apportion, moves, padded, spans

AWKWARD = st.one_of(st.sampled_from([1, 2, 7, 4095, 4096, 4097, 8191, 12_289, 65_537]), st.integers(1, 300_000))
UNITS = st.lists(AWKWARD, min_size=1, max_size=12).map(tuple)
SHARES = st.lists(st.sampled_from([1, 1, 2, 3, 7, 97, 1_000_000]), min_size=1, max_size=9).map(tuple)


def layout_of(units: tuple[int, ...], shares: tuple[int, ...]) -> Layout:
    assume(len(shares) <= sum(padded(n) for n in units) // CHUNK)
    return Layout(units, shares)


@pytest.mark.parametrize(("numel", "expected"), [(1, 4096), (4095, 4096), (4096, 4096), (4097, 8192)])
def test_padding_reaches_the_next_chunk(numel: int, expected: int) -> None:
    assert padded(numel) == expected


@given(UNITS, SHARES)
@example((1,), (1,))
@example((1, 1), (1, 1))
@example((1, 1, 1), (1_000_000, 1, 1))
@example((4097, 1, 4096), (3, 2))
def test_every_chunk_of_every_unit_has_one_owner(units: tuple[int, ...], shares: tuple[int, ...]) -> None:
    layout = layout_of(units, shares)
    for unit in map(UnitId, range(len(units))):
        owners = [0] * (layout.padded_unit(unit) // CHUNK)
        for rank in layout.ranks:
            bounds = layout.bounds(unit, rank)
            assert bounds.start % CHUNK == bounds.stop % CHUNK == 0
            for chunk in range(bounds.start // CHUNK, bounds.stop // CHUNK):
                owners[chunk] += 1
        assert owners == [1] * len(owners)
        # In member order: a unit is the concatenation of its parts.
        starts = [layout.bounds(unit, rank).start for rank in layout.ranks]
        assert starts == sorted(starts)
    assert sum(layout.owned(rank) for rank in layout.ranks) == layout.total


@given(UNITS, SHARES)
def test_members_own_in_proportion_to_their_shares(units: tuple[int, ...], shares: tuple[int, ...]) -> None:
    layout = layout_of(units, shares)
    for rank in layout.ranks:
        due = Fraction(layout.total * shares[rank], sum(shares))
        # The rounding of the units must not add up: two chunks in all, however many units there are.
        assert abs(layout.owned(rank) - due) < 2 * CHUNK


@given(UNITS, st.integers(1, 9))
def test_equal_members_differ_by_a_chunk_and_none_is_idle(units: tuple[int, ...], world: int) -> None:
    layout = layout_of(units, (5,) * world)
    owned = [layout.owned(rank) for rank in layout.ranks]
    assert max(owned) - min(owned) <= CHUNK
    assert min(owned) > 0


@given(UNITS, SHARES)
def test_a_slice_is_its_parts_in_unit_order(units: tuple[int, ...], shares: tuple[int, ...]) -> None:
    layout = layout_of(units, shares)
    for rank in layout.ranks:
        offsets = [layout.slice_offset(UnitId(u), rank) for u in range(len(units))]
        parts = [len(layout.bounds(UnitId(u), rank)) for u in range(len(units))]
        assert [b - a for a, b in pairwise([*offsets, layout.owned(rank)])] == parts


@given(UNITS)
def test_units_follow_one_another_in_the_flat_space(units: tuple[int, ...]) -> None:
    layout = Layout(units, (1,))
    ends = [offset + layout.padded_unit(UnitId(u)) for u, offset in enumerate(layout.offsets)]
    assert [*layout.offsets, layout.total] == [0, *ends]


@given(UNITS, SHARES, SHARES)
@example((1,), (1,), (1,))
@example((4097, 1, 65_537), (1, 2, 3), (1_000_000, 1))
def test_moves_turn_old_slices_into_new_ones(
    units: tuple[int, ...], old_shares: tuple[int, ...], new_shares: tuple[int, ...]
) -> None:
    old, new = layout_of(units, old_shares), layout_of(units, new_shares)

    def slices(layout: Layout) -> list[np.ndarray]:
        flat = np.arange(layout.total // CHUNK)  # one number stands for a chunk
        return [
            np.concatenate(
                [
                    flat[(offset + b.start) // CHUNK : (offset + b.stop) // CHUNK]
                    for u, offset in enumerate(layout.offsets)
                    for b in [layout.bounds(UnitId(u), rank)]
                ]
            )
            for rank in layout.ranks
        ]

    held, built = slices(old), [np.full(new.owned(rank) // CHUNK, -1) for rank in new.ranks]
    for move in moves(old, new):
        source = (old.slice_offset(move.unit, move.source) + move.source_offset) // CHUNK
        target = (new.slice_offset(move.unit, move.target) + move.target_offset) // CHUNK
        count = move.length // CHUNK
        assert move.length == count * CHUNK > 0
        assert np.all(built[move.target][target : target + count] == -1)  # nothing is sent twice
        built[move.target][target : target + count] = held[move.source][source : source + count]
    for got, wanted in zip(built, slices(new), strict=True):
        assert np.array_equal(got, wanted)


@given(UNITS, SHARES)
def test_staying_put_moves_nothing_between_members(units: tuple[int, ...], shares: tuple[int, ...]) -> None:
    layout = layout_of(units, shares)
    found = list(moves(layout, layout))
    assert all(m.source == m.target and m.source_offset == m.target_offset == 0 for m in found)
    assert sum(m.length for m in found) == layout.total


@given(st.integers(0, 500), SHARES)
def test_apportioning_loses_nothing_and_rounds_by_less_than_one(chunks: int, shares: tuple[int, ...]) -> None:
    counts = apportion(chunks, shares)
    assert sum(counts) == chunks
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - Fraction(chunks * share, sum(shares))) < 1


def test_ties_go_to_the_earlier_member() -> None:
    assert apportion(3, (1, 1)) == [2, 1]
    assert apportion(1, (1, 1, 1)) == [1, 0, 0]


def test_one_member_owns_all() -> None:
    layout = Layout((1, 5000), (3,))
    assert layout.bounds(UnitId(1), Rank(0)) == Bounds(0, 8192)
    assert layout.owned(Rank(0)) == layout.total == 3 * CHUNK


@pytest.mark.parametrize("world", [3, 7, 1000])
def test_more_members_than_chunks_are_refused(world: int) -> None:
    with pytest.raises(ConfigInvalid, match=f"{world} members cannot share 2 chunks") as caught:
        Layout((1, 4096), (1,) * world)
    assert "fewer workers" in caught.value.hint


@pytest.mark.parametrize(
    ("units", "shares"), [((), (1,)), ((0,), (1,)), ((5, -1), (1,)), ((5,), ()), ((5,), (0,)), ((9999,), (2, -1))]
)
def test_sizes_and_shares_must_be_positive(units: tuple[int, ...], shares: tuple[int, ...]) -> None:
    with pytest.raises(ConfigInvalid, match="every"):
        Layout(units, shares)


def test_layouts_of_different_models_have_no_moves() -> None:
    with pytest.raises(ConfigInvalid, match="different models"):
        list(moves(Layout((5,), (1,)), Layout((6,), (1,))))


@pytest.mark.parametrize(
    ("a", "b", "common"),
    [
        (Bounds(0, 8), Bounds(4, 12), Bounds(4, 8)),
        (Bounds(0, 4), Bounds(4, 8), Bounds(4, 4)),
        (Bounds(0, 4), Bounds(6, 8), Bounds(6, 6)),
        (Bounds(3, 3), Bounds(0, 9), Bounds(3, 3)),
    ],
)
def test_ranges_meet(a: Bounds, b: Bounds, common: Bounds) -> None:
    assert a.meet(b) == common
    assert len(b.meet(a)) == len(common)


@given(UNITS, SHARES, st.integers(1, 9))
@example((1,), (1,), 5)
@example((4097, 1, 4096), (3, 2), 2)
def test_fragments_cut_every_span_into_what_its_owners_hold(
    units: tuple[int, ...], shares: tuple[int, ...], count: int
) -> None:
    """Written from the slices through the fragments, the flat space is whole, and every element its own."""
    layout = layout_of(units, shares)
    cut = spans(layout.total, count)
    assert cut[0].start == 0
    assert cut[-1].stop == layout.total
    assert all(before.stop == after.start for before, after in pairwise(cut))
    chunks = [len(span) // CHUNK for span in cut]
    assert len(cut) == min(count, layout.total // CHUNK)
    assert max(chunks) - min(chunks) <= 1
    flat = np.full(layout.total // CHUNK, -1)
    for rank in layout.ranks:
        # The chunks of the flat space that a slice holds, in its own order.
        held = [
            np.arange(offset + bounds.start, offset + bounds.stop, CHUNK) // CHUNK
            for unit, offset in enumerate(layout.offsets)
            for bounds in [layout.bounds(UnitId(unit), rank)]
        ]
        slice_ = np.concatenate(held)
        for span in cut:
            found = layout.fragments(rank, span)
            assert all(before.flat.stop < after.flat.start for before, after in pairwise(found))
            for part in found:
                at, size = part.slice_offset // CHUNK, len(part.flat) // CHUNK
                assert part.flat.start == span.start + part.span_offset
                flat[part.flat.start // CHUNK :][:size] = slice_[at : at + size]
    assert (flat == np.arange(flat.size)).all()
