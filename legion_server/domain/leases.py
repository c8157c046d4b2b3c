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
    found: list[Blocks] = []
    for one in sorted((r for r in ranges if len(r)), key=lambda r: (r.start, r.stop)):
        if found and one.start <= found[-1].stop:
            last = found.pop()
            one = Blocks(start=last.start, stop=max(last.stop, one.stop))
        found.append(one)
    return tuple(found)


def minus(ranges: Iterable[Blocks], taken: Iterable[Blocks]) -> Ranges:
    """What lies in `ranges` and not in `taken`, in order."""
    left = joined(ranges)
    for hole in joined(taken):
        cut: list[Blocks] = []
        for one in left:
            before = (one.start, min(one.stop, hole.start))
            after = (max(one.start, hole.stop), one.stop)
            cut += [Blocks(start=a, stop=b) for a, b in (before, after) if a < b]
        left = tuple(cut)
    return left


def overlap(ranges: Iterable[Blocks], others: Iterable[Blocks]) -> Ranges:
    """What lies in both, in order."""
    mine = joined(ranges)
    return minus(mine, minus(mine, others))


def count(ranges: Iterable[Blocks]) -> int:
    """How many blocks, each once."""
    return sum(len(one) for one in joined(ranges))


def _cut(found: Blocks, size: int) -> tuple[Blocks, Ranges]:
    middle = found.start + size
    rest = (Blocks(start=middle, stop=found.stop),) if middle < found.stop else ()
    return Blocks(start=found.start, stop=middle), rest
