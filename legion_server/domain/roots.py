"""Whether a worker's anchor is the reference's: a worker that strays twice in a day is excluded. Pure."""

from dataclasses import replace
from typing import NamedTuple

from legion.ids import WorkerId
from legion.rounds import RootReport
from legion_server.domain.happenings import Happening
from legion_server.domain.rounds import Mismatch, Rounds
from legion_server.domain.span_reports import MOST_REFUSED, with_refused

FORGIVEN_AFTER_S = 86_400.0
MOST_MISMATCHES = 2  # within that time


class Verdict(NamedTuple):
    rounds: Rounds
    agrees: bool | None
    happenings: list[Happening]
    excluded: bool = False


def newest(rounds: Rounds) -> int:
    """The newest anchor that a worker can have: a power cut may have cost the log a round that workers know of."""
    return rounds.committed + 1


def compared(rounds: Rounds, worker: WorkerId, report: RootReport, reference: str | None, now: float) -> Verdict:
    """What a worker's root says; None and remembered while the reference is still to be computed.

    The same anchor counts against a worker once, however often it is reported. One that there cannot be yet is nothing
    to wait for.
    """
    waiting = rounds.waiting_roots
    # The reference of an older one may have been looked for while the worker went on and reported again.
    is_newest = worker not in waiting or waiting[worker].round <= report.round
    rest = {name: other for name, other in waiting.items() if name != worker} if is_newest else waiting
    if reference is None:
        if is_newest and rounds.anchored < report.round <= newest(rounds):
            rest = {**rest, worker: report.model_copy(update={"refused": {}, "damaged": 0})}  # counted already
        return Verdict(replace(rounds, waiting_roots=rest), None, [])
    rounds = replace(rounds, waiting_roots=rest)
    if report.root == reference:
        return Verdict(rounds, True, [])
    recent = tuple(m for m in rounds.mismatches.get(worker, ()) if now - m.at < FORGIVEN_AFTER_S)
    if any(m.round == report.round for m in recent):
        return Verdict(rounds, False, [])
    recent = (*recent, Mismatch(report.round, now))
    rounds = replace(rounds, mismatches={**rounds.mismatches, worker: recent}).counted(root_mismatches=1)
    told = Happening("root_mismatch", {"round": report.round}, {"worker_id": worker, "root": report.root})
    return Verdict(rounds, False, [told], excluded=len(recent) >= MOST_MISMATCHES)


def noticed(rounds: Rounds, worker: WorkerId, report: RootReport) -> Rounds:
    """With what the worker counted on its way to this anchor. A report that comes again adds nothing.

    An anchor that no committed round leads to would silence the worker until the log is there: its report is refused.
    """
    if report.round > newest(rounds):
        return rounds.counted(reports_refused=1)
    if not (report.refused or report.damaged) or report.round <= rounds.noticed.get(worker, -1):
        return rounds
    rounds = replace(rounds, noticed={**rounds.noticed, worker: report.round})
    return with_refused(rounds, report.refused).counted(updates_damaged=min(report.damaged, MOST_REFUSED))


def known(rounds: Rounds, anchor: int, root: str) -> Rounds:
    """The reference of theta_anchor is computed; `due` tells whose reports can be compared now."""
    return replace(rounds, anchored=anchor, root=root)


def due(rounds: Rounds) -> list[tuple[WorkerId, RootReport]]:
    """Reports that waited for the newest reference, or for one that will not come any more."""
    return [(w, report) for w, report in rounds.waiting_roots.items() if report.round <= rounds.anchored]
