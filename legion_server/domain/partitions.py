"""Who of a broken cluster can still talk to whom, by what its members say of one another. Pure.

Whoever loses a peer names it. One that is cut off from all others names one of them, which is as well as they are: a
name proves nothing about who is at fault, only that two do not reach each other. Whoever heard of the loss from another
member reaches that one, and names nobody.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from legion.ids import WorkerId


@dataclass(frozen=True, slots=True)
class Word:
    """Of a member whose plan cannot go on."""

    lost: WorkerId | None = None  # whom it does not reach
    told_by: WorkerId | None = None  # who said so to it, and lives


Words = Mapping[WorkerId, Word]


def may_live(worker: WorkerId, words: Words) -> bool:
    """Of a member that has said nothing yet: nobody names it, or who does is named itself, or it has told somebody."""
    accusers = {one for one, word in words.items() if word.lost == worker}
    named = {word.lost for word in words.values()}
    return not accusers or bool(accusers & named) or any(word.told_by == worker for word in words.values())


def together(words: Words, order: Sequence[WorkerId]) -> tuple[WorkerId, ...]:
    """Of those who have spoken, those who go on: no two that do not reach each other, and as many as may be.

    Who has the most against it leaves first, of equals whom fewest have heard, then the last in `order`.
    """

    def against(worker: WorkerId) -> tuple[int, int, int]:
        heard = sum(word.told_by == worker for word in words.values())
        return sum(worker in pair for pair in apart), -heard, left.index(worker)

    apart = {frozenset(pair) for pair in _apart(words)}
    left = [worker for worker in order if worker in words]
    while apart:
        worst = max(left, key=against)
        left.remove(worst)
        apart = {pair for pair in apart if worst not in pair}
    return tuple(left)


def _apart(words: Words) -> Iterable[tuple[WorkerId, WorkerId]]:
    """A member that is named and names nobody has heard of it from the others: it is there after all."""
    for accuser, word in words.items():
        if word.lost is not None and word.lost in words and words[word.lost].lost is not None:
            yield accuser, word.lost
