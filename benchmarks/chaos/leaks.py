"""What processes that stay hold more of, round by round: memory, descriptors, asyncio's tasks."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rows import Row

WARM_UP = 4  # rounds: caches fill, allocators take what they keep
MEGA = 1e6
MEMORY_MB = 0.5  # a round; of a process of 60 to 400 MB
COUNT = 0.1

Notes = Sequence[Mapping[str, Any]]


def at_rounds(notes: Notes, commits: Sequence[float]) -> Notes:
    """The one before each of these moments, of the process that is there at the last of them."""
    there = [note for note in notes if note["pid"] == notes[-1]["pid"]]
    found = []
    for at in commits:
        before = [note for note in there if note["at"] <= at]
        found += before[-1:]
    return found


def growth(who: str, notes: Notes) -> list[Row]:
    """By round, after WARM_UP. `notes`: one for each round."""
    kept = notes[WARM_UP:]
    span = f"{len(kept)} rounds"
    memory = [note["rss_bytes"] / MEGA for note in kept]
    from_to = f"{span}, {memory[0]:.0f} to {memory[-1]:.0f} MB" if memory else span
    rows = [Row(f"{who}: memory grows by", _slope(memory), "MB a round", f"<= {MEMORY_MB}", from_to)]
    for what in ("descriptors", "tasks"):
        values = [note[what] for note in kept]
        seen = f"{span}, {values[0]} to {values[-1]}, most {max(values)}" if values else span
        rows.append(Row(f"{who}: {what} grow by", _slope(values), "a round", f"<= {COUNT}", seen))
    return rows


def _slope(values: Sequence[float]) -> float:
    """Theil and Sen's: the median of all pairs' slopes, which a few odd values do not move. NaN of fewer than three."""
    if len(values) < 3:
        return float("nan")
    pairs = ((i, j) for j in range(len(values)) for i in range(j))
    return statistics.median((values[j] - values[i]) / (j - i) for i, j in pairs)
