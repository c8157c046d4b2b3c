"""Programs that speak with one worker's key, told apart by what each has drawn when it started. Pure.

One that is started anew takes the place of the one before, which is never heard again. If it is, there are two at once:
a copied identity, or an old backup. Then the older one stays, and the newer one is turned away. Heartbeats of both in
turn would end a cluster again and again.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

TOLD_S = 600.0  # that the older one is told of the newer
MOST_TURNED_AWAY = 16  # that are remembered of a worker


class Program(NamedTuple):
    """One that speaks for a worker."""

    instance: str
    host: str  # where it was seen


@dataclass(frozen=True, slots=True)
class Instances:
    """Of one worker."""

    now: Program  # the one that is heard
    before: Program | None = None  # whose place it took
    turned_away: tuple[Program, ...] = ()  # the newest last
    doubled_at: float | None = None  # s since 1970; when two were last heard at once


@dataclass(frozen=True, slots=True)
class Heard:
    instances: Instances
    doubled: bool = False  # it was found out now
    refused: bool = False


def heard(known: Instances | None, program: Program, at: float) -> Heard:
    """A heartbeat of `program`."""
    if known is None:
        return Heard(Instances(program))
    if any(program.instance == other.instance for other in known.turned_away):
        return Heard(replace(known, doubled_at=at), refused=True)
    if program.instance == known.now.instance:
        return Heard(replace(known, now=program))
    if known.before is not None and program.instance == known.before.instance:
        away = (*known.turned_away, known.now)[-MOST_TURNED_AWAY:]
        return Heard(Instances(program, None, away, at), doubled=True)
    return Heard(replace(known, now=program, before=known.now))


def newcomer_of(known: Instances, at: float) -> Program | None:
    """The other one that the one that stays is to hear of."""
    is_fresh = known.doubled_at is not None and at - known.doubled_at < TOLD_S
    return known.turned_away[-1] if is_fresh else None
