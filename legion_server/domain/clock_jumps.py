"""A clock that is set, or that stood still with its computer: nobody was silent for as long as it then says. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from legion.ids import WorkerId
from legion_server.domain.membership import Worker
from legion_server.domain.rounds import Rounds, with_patience
from legion_server.domain.runs import Run

JUMP_S: Final = 10.0  # a clock that is only kept right moves by less between two looks, a second apart


@dataclass(frozen=True, slots=True)
class Clocks:
    """The wall's, and one that only goes forward; in s."""

    wall_s: float
    steady_s: float

    def jump_s(self, before: "Clocks") -> float:
        """By how much the wall's has moved beside the time that has passed; 0.0 where that is no jump."""
        by = (self.wall_s - before.wall_s) - (self.steady_s - before.steady_s)
        return by if abs(by) >= JUMP_S else 0.0


def patient(
    run: Run, workers: Mapping[WorkerId, Worker], rounds: Rounds | None, now: float
) -> tuple[Run, dict[WorkerId, Worker], Rounds | None]:
    """As after a restart: everybody was heard just now, and what was waited for begins anew."""
    return (
        run if run.ready_since is None else replace(run, ready_since=now),
        {worker_id: replace(worker, last_seen=now) for worker_id, worker in workers.items()},
        with_patience(rounds, now) if rounds else None,
    )
