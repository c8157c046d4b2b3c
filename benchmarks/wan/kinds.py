"""What a worker of a real run has sent, by kind: told from the direction of connections and from the run's records.

A worker calls another's port to hand over parts and to ask for updates: what goes towards the port is contribution,
what comes from it serving, the other direction's acknowledgements with each. What goes to the server is control, but
for the updates that the records say the worker has stored there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from wan.runs import Course, Stage


@dataclass(frozen=True, slots=True)
class Worker:
    """Bytes as the stage counts them; `seeding_up` without any header."""

    contribution_up: float
    contribution_down: float
    serving_up: float
    serving_down: float
    seeding_up: float  # to storage
    control_up: float  # with the headers of what was stored
    control_down: float

    @property
    def total_up(self) -> float:
        """Without storage."""
        return self.contribution_up + self.serving_up + self.control_up

    @property
    def total_down(self) -> float:
        return self.contribution_down + self.serving_down + self.control_down


def between(stage: Stage, course: Course, first: int, last: int) -> list[Worker]:
    """Of every worker, from the commit of round `first` to that of `last`; the mean alone, if callers are not told."""
    stored = dict.fromkeys(course.addresses, 0)
    for record in course.records[first + 1 : last + 1]:
        for span in record.spans:
            stored[span.reducer] += span.size_bytes
    counted = _Counted(stage, course, first, last)
    if stage.tells_callers:
        return [counted.worker(address, stored[worker]) for worker, address in course.addresses.items()]
    return [counted.mean(len(stored), sum(stored.values()))]


class _Counted:
    def __init__(self, stage: Stage, course: Course, first: int, last: int) -> None:
        self._stage = stage
        self._flows = [(1, flow) for flow in course.carried[last]] + [(-1, flow) for flow in course.carried[first]]

    def went(self, **ends: str | int) -> int:
        """Bytes with these ends; others may be any."""
        return sum(
            sign * flow.bytes
            for sign, flow in self._flows
            if all(getattr(flow, name) == wanted for name, wanted in ends.items())
        )

    def worker(self, address: str, stored: int) -> Worker:
        up: Mapping[str, str] = {"source": address}
        down: Mapping[str, str] = {"target": address}
        port = self._stage.worker_port
        contribution_up, serving_up = self.went(**up, target_port=port), self.went(**up, source_port=port)
        contribution_down, serving_down = self.went(**down, target_port=port), self.went(**down, source_port=port)
        return Worker(
            contribution_up=contribution_up,
            contribution_down=contribution_down,
            serving_up=serving_up,
            serving_down=serving_down,
            seeding_up=stored,
            control_up=self.went(**up) - contribution_up - serving_up - stored,
            control_down=self.went(**down) - contribution_down - serving_down,
        )

    def mean(self, workers: int, stored: int) -> Worker:
        """What one sends to another, another gets."""
        port, server = self._stage.worker_port, self._stage.server_port
        contribution, serving = self.went(target_port=port) / workers, self.went(source_port=port) / workers
        return Worker(
            contribution_up=contribution,
            contribution_down=contribution,
            serving_up=serving,
            serving_down=serving,
            seeding_up=stored / workers,
            control_up=(self.went(target_port=server) - stored) / workers,
            control_down=self.went(source_port=server) / workers,
        )
