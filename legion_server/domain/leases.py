"""Blocks on loan: every block is leased at most once at a time, and what comes back is leased again. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from legion.rounds import Blocks

NO_BLOCKS = Blocks(start=0, stop=0)
Ranges = tuple[Blocks, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """Blocks that nobody holds: those given back, and all from `fresh` on."""

    fresh: int = 0
    returned: Ranges = ()


def take(pool: Pool, count: int) -> tuple[Pool, Blocks]:
    """The first range of `count` blocks that were given back, else new ones."""
    for place, found in enumerate(pool.returned):
        if len(found) >= count:
            lease, rest = _cut(found, count)
            kept = (*pool.returned[:place], *rest, *pool.returned[place + 1 :])
            return replace(pool, returned=kept), lease
    return replace(pool, fresh=pool.fresh + count), Blocks(start=pool.fresh, stop=pool.fresh + count)


def give_back(pool: Pool, ranges: Iterable[Blocks]) -> Pool:
    """The pool with these in it; neighbours become one range, so that a large lease fits again."""
    returned = joined((*pool.returned, *ranges))
    fresh = pool.fresh
    if returned and returned[-1].stop == fresh:
        *first, last = returned
        returned, fresh = tuple(first), last.start
    return Pool(fresh, returned)


def joined(ranges: Iterable[Blocks]) -> Ranges:
    """The union, in order, without empty ranges."""
    return _blocks(_joined(ranges))


def minus(ranges: Iterable[Blocks], taken: Iterable[Blocks]) -> Ranges:
    """What lies in `ranges` and not in `taken`, in order."""
    return _blocks(_minus(_joined(ranges), _joined(taken)))


def overlap(ranges: Iterable[Blocks], others: Iterable[Blocks]) -> Ranges:
    """What lies in both, in order."""
    mine = _joined(ranges)
    return _blocks(_minus(mine, _minus(mine, _joined(others))))


def count(ranges: Iterable[Blocks]) -> int:
    """How many blocks, each once."""
    return sum(stop - start for start, stop in _joined(ranges))


# As pairs of numbers: a hundred clusters in sixty-four spans ask thousands of times in a round, and messages are slow.

_Pairs = list[tuple[int, int]]


def _blocks(pairs: _Pairs) -> Ranges:
    return tuple(Blocks(start=start, stop=stop) for start, stop in pairs)


def _joined(ranges: Iterable[Blocks]) -> _Pairs:
    found: _Pairs = []
    for start, stop in sorted((r.start, r.stop) for r in ranges if r.start < r.stop):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return found


def _minus(left: _Pairs, holes: _Pairs) -> _Pairs:
    """Both in order, each without ranges that touch: one walk along both."""
    found: _Pairs = []
    place = 0
    for start, stop in left:
        while place < len(holes) and holes[place][1] <= start:
            place += 1
        reached, ahead = start, place
        while ahead < len(holes) and holes[ahead][0] < stop:
            if reached < holes[ahead][0]:
                found.append((reached, holes[ahead][0]))
            reached = max(reached, holes[ahead][1])
            ahead += 1
        if reached < stop:
            found.append((reached, stop))
    return found


def _cut(found: Blocks, size: int) -> tuple[Blocks, Ranges]:
    middle = found.start + size
    rest = (Blocks(start=middle, stop=found.stop),) if middle < found.stop else ()
    return Blocks(start=found.start, stop=middle), rest
