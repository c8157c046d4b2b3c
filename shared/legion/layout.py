"""Who owns which elements of the flat parameter space: the only arithmetic that says so.

The flat space is the concatenation of *units* in module order, each padded to whole chunks of 4,096
elements. Inside a unit, members own consecutive ranges of whole chunks, in member order, sized in
proportion to their shares. Integers only: the server uses this module too, without torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from legion.errors import ConfigInvalid
from legion.ids import Rank, UnitId

CHUNK = 4096  # elements


def padded(numel: int) -> int:
    """`numel` rounded up to whole chunks."""
    return -(-numel // CHUNK) * CHUNK


def apportion(chunks: int, shares: Sequence[int]) -> list[int]:
    """`chunks` divided in proportion to `shares`, whole numbers, nothing lost: largest remainders get the rest.

    Ties go to the earlier member, so that every process finds the same answer.
    """
    total = sum(shares)
    exact = [chunks * share for share in shares]  # in units of 1/total chunk
    counts = [e // total for e in exact]
    by_remainder = sorted(range(len(shares)), key=lambda r: (-(exact[r] % total), r))
    for rank in by_remainder[: chunks - sum(counts)]:
        counts[rank] += 1
    return counts


@dataclass(frozen=True, slots=True)
class Bounds:
    """A half-open range of elements."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def meet(self, other: "Bounds") -> "Bounds":
        """The common range; empty when they do not meet."""
        start = max(self.start, other.start)
        return Bounds(start, max(start, min(self.stop, other.stop)))


@dataclass(frozen=True, slots=True)
class Fragment:
    """A range of the flat space that lies both in a span and in a member's slice, and where it lies in each."""

    flat: Bounds
    slice_offset: int  # elements from the start of the member's slice
    span_offset: int  # elements from the start of the span


@dataclass(frozen=True, slots=True)
class Move:
    """Elements [start, start + length) of a unit's range go from one owner to another."""

    unit: UnitId
    source: Rank
    target: Rank
    source_offset: int  # elements from the start of the source's slice of the unit
    target_offset: int
    length: int


@dataclass(frozen=True)
class Layout:
    """Unit sizes (elements, before padding) and member shares (positive integers, in member order)."""

    units: tuple[int, ...]
    shares: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.units or min(self.units) < 1:
            raise ConfigInvalid(f"every unit needs at least one element, got {self.units}")
        if not self.shares or min(self.shares) < 1:
            raise ConfigInvalid(f"every member needs a positive share, got {self.shares}")
        if len(self.shares) > self.total // CHUNK:
            raise ConfigInvalid(
                f"{len(self.shares)} members cannot share {self.total // CHUNK} chunks of {CHUNK} elements",
                hint="Use fewer workers or a larger model.",
            )

    @property
    def world(self) -> int:
        return len(self.shares)

    @property
    def ranks(self) -> Iterator[Rank]:
        return (Rank(r) for r in range(self.world))

    @cached_property
    def total(self) -> int:
        """Elements of the whole flat space, padding included."""
        return sum(padded(n) for n in self.units)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each unit starts in the flat space."""
        return (0, *accumulate(padded(n) for n in self.units))[:-1]

    @cached_property
    def _bounds(self) -> tuple[tuple[Bounds, ...], ...]:
        # Shares are apportioned over the running sum of chunks, not unit by unit: otherwise the small units'
        # rounding would pile up on the first members. Each unit gives what brings everyone nearest to his due.
        table: list[tuple[Bounds, ...]] = []
        held = [0] * self.world
        chunks_before = 0
        for numel in self.units:
            chunks = padded(numel) // CHUNK
            due = apportion(chunks_before + chunks, self.shares)
            wanted = [max(0, d - h) for d, h in zip(due, held, strict=True)]
            counts = apportion(chunks, wanted) if sum(wanted) != chunks else wanted
            ends = list(accumulate(counts))
            table.append(tuple(Bounds((e - c) * CHUNK, e * CHUNK) for e, c in zip(ends, counts, strict=True)))
            held = [h + c for h, c in zip(held, counts, strict=True)]
            chunks_before += chunks
        return tuple(table)

    def bounds(self, unit: UnitId, rank: Rank) -> Bounds:
        """What `rank` owns of `unit`, in elements from the unit's start; may be empty, may reach into the padding."""
        return self._bounds[unit][rank]

    def padded_unit(self, unit: UnitId) -> int:
        return padded(self.units[unit])

    def owned(self, rank: Rank) -> int:
        """Elements of the whole space that `rank` owns, padding included."""
        return sum(len(self.bounds(UnitId(u), rank)) for u in range(len(self.units)))

    def slice_offset(self, unit: UnitId, rank: Rank) -> int:
        """Where the unit's part starts in the rank's own slice, the concatenation of its parts in unit order."""
        return sum(len(self.bounds(UnitId(u), rank)) for u in range(unit))

    def fragments(self, rank: Rank, span: Bounds) -> tuple[Fragment, ...]:
        """What `rank` owns of a span, in the order of the flat space; neighbours are one fragment.

        `span` is in elements of the flat space. A member sends its part of the span as these, one after the other.
        """
        found: list[Fragment] = []
        held = 0
        for number, offset in enumerate(self.offsets):
            mine = self.bounds(UnitId(number), rank)
            flat = Bounds(offset + mine.start, offset + mine.stop)
            common = flat.meet(span)
            if len(common):
                found.append(Fragment(common, held + common.start - flat.start, common.start - span.start))
            held += len(mine)
        return _joined(found)


def _joined(fragments: Iterable[Fragment]) -> tuple[Fragment, ...]:
    # What follows in the flat space follows in the slice too: a slice is in the order of the units.
    joined: list[Fragment] = []
    for fragment in fragments:
        if joined and joined[-1].flat.stop == fragment.flat.start:
            last = joined.pop()
            fragment = Fragment(Bounds(last.flat.start, fragment.flat.stop), last.slice_offset, last.span_offset)
        joined.append(fragment)
    return tuple(joined)


def spans(total: int, count: int) -> tuple[Bounds, ...]:
    """`total` elements (whole chunks) in at most `count` ranges of whole chunks; sizes differ by one chunk at most."""
    chunks = total // CHUNK
    ends = list(accumulate(apportion(chunks, [1] * min(count, chunks))))
    return tuple(Bounds(a * CHUNK, b * CHUNK) for a, b in zip([0, *ends], ends, strict=False))


def moves(old: Layout, new: Layout) -> Iterator[Move]:
    """Everything that must be copied to go from one layout of the same units to another, what stays put included."""
    if old.units != new.units:
        raise ConfigInvalid(f"layouts of different models: units {old.units} and {new.units}")
    for unit in (UnitId(u) for u in range(len(old.units))):
        for target in new.ranks:
            wanted = new.bounds(unit, target)
            for source in old.ranks:
                held = old.bounds(unit, source)
                common = held.meet(wanted)
                if len(common):
                    yield Move(
                        unit, source, target, common.start - held.start, common.start - wanted.start, len(common)
                    )
