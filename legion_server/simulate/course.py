"""What happened in a simulated run, as it is written into a report: JSON values, the same for the same seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from legion.ids import WorkerId
from legion.sim.network import KINDS, Traffic


@dataclass(frozen=True, slots=True)
class Point:
    """Where the run was after a round, or after as many steps without rounds."""

    round: int
    time_s: float  # virtual
    tokens: int  # committed since the run began
    loss: float  # held-out, nats per token, of the anchor
    train_loss: float | None  # mean over the steps since the point before
    clusters: int  # that are in it


@dataclass(frozen=True, slots=True)
class Work:
    """One worker's."""

    device: str
    speed: float
    online_s: float
    computed_s: float
    steps: int
    tokens: int

    @property
    def utilisation(self) -> float:
        return self.computed_s / self.online_s if self.online_s else 0.0


@dataclass
class Course:
    """One run."""

    points: list[Point] = field(default_factory=list)
    workers: dict[WorkerId, Work] = field(default_factory=dict)
    traffic: Mapping[WorkerId, Traffic] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # what went wrong, and what was done about it
    root: str = ""  # digest of the last anchor

    @property
    def wall_s(self) -> float:
        return self.points[-1].time_s

    @property
    def utilisation(self) -> float:
        """Of all workers together, while they were there."""
        online = sum(work.online_s for work in self.workers.values())
        return sum(work.computed_s for work in self.workers.values()) / online if online else 0.0

    def bytes_by_kind(self) -> dict[str, dict[str, float]]:
        """Mean and largest of all workers, up and down; `internet` is the part of `total` that leaves a LAN."""
        mine = [one for worker, one in self.traffic.items() if worker in self.workers]
        rows: dict[str, dict[str, float]] = {
            kind: _spread([one.sent[kind] for one in mine], [one.received[kind] for one in mine]) for kind in KINDS
        }
        return rows | {
            "total": _spread([sum(one.sent.values()) for one in mine], [sum(one.received.values()) for one in mine]),
            "internet": _spread([one.internet_sent for one in mine], [one.internet_received for one in mine]),
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "wall_s": self.wall_s,
            "tokens": self.points[-1].tokens,
            "loss": self.points[-1].loss,
            "utilisation": self.utilisation,
            "bytes_per_worker": self.bytes_by_kind(),
            "counts": self.counts,
            "root": self.root,
            "points": [{name: getattr(point, name) for name in Point.__dataclass_fields__} for point in self.points],
            "workers": [
                {"worker": worker, "utilisation": work.utilisation}
                | {name: getattr(work, name) for name in Work.__dataclass_fields__}
                for worker, work in self.workers.items()
            ],
        }


def _spread(up: Sequence[int], down: Sequence[int]) -> dict[str, float]:
    return {
        "up_mean": sum(up) / max(1, len(up)),
        "up_max": max(up, default=0),
        "down_mean": sum(down) / max(1, len(down)),
        "down_max": max(down, default=0),
    }
