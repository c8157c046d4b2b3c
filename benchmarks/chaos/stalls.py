"""What the loss of a worker costs the others in time, from what their engines noted. Pure.

A stall is of a worker that nobody killed: the time between two of its committed steps beyond its usual one. It belongs
to the kill that it began with or after; the longest is the kill's. A worker whose engine ended because its cluster was
lost stalls too. Detection is from the kill until a member of the cluster says that its plan is broken, or, of a cluster
of one, until somebody hears from the server that the killed worker is not waited for, or reduces no more.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Notes = Mapping[str, Sequence[Mapping[str, Any]]]  # by worker's name; see `Worker.steps`


@dataclass(frozen=True, slots=True)
class Kill:
    at: float  # s since 1970
    over_at: float  # from then on its processes are no more
    name: str
    worker_id: str


@dataclass(frozen=True, slots=True)
class Stall:
    """`detected_s`: what of `seconds` passed before anybody knew."""

    kill: Kill
    seconds: float
    name: str  # whose it is
    detected_s: float

    @property
    def beyond_s(self) -> float:
        return max(0.0, self.seconds - self.detected_s)


def usual(notes: Notes, since: float, until: float) -> dict[str, float]:
    """Of each worker, the median."""
    found = {}
    for name in notes:
        moments = [at for at in _commits(notes[name]) if since <= at <= until]
        found[name] = statistics.median(b - a for a, b in itertools.pairwise(moments))
    return found


def stalls(kills: Sequence[Kill], notes: Notes, usual_s: Mapping[str, float], ended: float) -> list[Stall]:
    """One for each kill, 0 s where nobody stalled."""
    worst: dict[Kill, tuple[float, str]] = dict.fromkeys(kills, (0.0, ""))
    for name in notes:
        moments = [at for at in _commits(notes[name]) if at < ended]
        for before, after in itertools.pairwise([*moments, ended]):
            if any(kill.name == name and before <= kill.over_at and kill.at <= after for kill in kills):
                continue
            inside = [kill for kill in kills if before < kill.at <= after]
            earlier = [kill for kill in kills if kill.at <= before]
            if not (inside or earlier):
                continue
            kill = inside[0] if inside else earlier[-1]
            worst[kill] = max(worst[kill], (after - before - usual_s[name], name))
    return [Stall(kill, *worst[kill], min(worst[kill][0], _detected_s(kill, notes, ended))) for kill in kills]


def undisturbed(notes: Notes, usual_s: Mapping[str, float], since: float, until: float, slice_s: float) -> list[float]:
    """The longest stall of anybody in each slice of a time when nobody was killed: a busy machine's own.

    A pause that lasts beyond `until` is another's: that of who is killed then.
    """
    found = []
    for start in itertools.takewhile(lambda at: at + slice_s <= until, itertools.count(since, slice_s)):
        gaps = [
            after - before - usual_s[name]
            for name in notes
            for before, after in itertools.pairwise(_commits(notes[name]))
            if start <= before < start + slice_s and after <= until
        ]
        found.append(max(gaps, default=slice_s))
    return found


def p95(values: Sequence[float]) -> float:
    """The smallest value that 95 % do not exceed."""
    ordered = sorted(values)
    return ordered[-(-95 * len(ordered) // 100) - 1]


def _commits(notes: Sequence[Mapping[str, Any]]) -> list[float]:
    return [note["at"] for note in notes if "step" in note]


def _detected_s(kill: Kill, notes: Notes, ended: float) -> float:
    """Until the end if nobody knew."""
    others = sorted((n for name in notes if name != kill.name for n in notes[name]), key=lambda note: note["at"])
    plans = [note for note in others if "clusters" in note and note["at"] <= kill.at]
    cluster = plans[-1]["clusters"].get(kill.worker_id) if plans else None
    newest = plans[-1]["round"] if plans else -1
    for note in others:
        if not kill.at < note["at"] < ended:
            continue
        without = note.get("round", -1) >= newest and kill.worker_id not in note.get("clusters", (kill.worker_id,))
        resigned = note.get("round") == newest and kill.worker_id not in note["reducers"]
        was_reducer = bool(plans) and kill.worker_id in plans[-1]["reducers"]
        if "broken" in note or cluster in note.get("gone", ()) or without or (resigned and was_reducer):
            return float(note["at"] - kill.at)
    return ended - kill.at
