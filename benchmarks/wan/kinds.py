"""What a worker of a real run has sent, by kind: told from the direction of connections and from the run's records.

A worker calls another's port to hand over parts and to fetch updates: what goes towards the port is contribution, what
comes from it serving, the other direction's acknowledgements with each. What goes to the server is control, but for
the updates that the records say the worker has stored there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wan.network import Carried
from wan.runs import WORKER_PORT, Course


@dataclass(frozen=True, slots=True)
class Worker:
    """Bytes on the wire, IP headers and all; `seeding` without any."""

    contribution_up: int
    contribution_down: int
    serving_up: int
    serving_down: int
    seeding_up: int  # to storage
    control_up: int  # with the headers of what was stored
    control_down: int

    @property
    def total_up(self) -> int:
        """Without storage."""
        return self.contribution_up + self.serving_up + self.control_up

    @property
    def total_down(self) -> int:
        return self.contribution_down + self.serving_down + self.control_down


def between(course: Course, first: int, last: int) -> list[Worker]:
    """Of every worker, from the commit of round `first` to that of round `last`."""
    before, after = course.carried[first], course.carried[last]
    stored = dict.fromkeys(course.addresses, 0)
    for record in course.records[first + 1 : last + 1]:
        for span in record.spans:
            stored[span.reducer] += span.size_bytes
    return [_worker(address, before, after, stored[worker]) for worker, address in course.addresses.items()]


def _worker(address: str, before: Sequence[Carried], after: Sequence[Carried], stored: int) -> Worker:
    def went(*, source: str = "", target: str = "", source_port: int = 0, target_port: int = 0) -> int:
        wanted = (source, target, source_port, target_port)
        return sum(
            sign * flow.bytes
            for sign, flows in ((1, after), (-1, before))
            for flow in flows
            if all(not value or value == found for value, found in zip(wanted, flow, strict=False))
        )

    contribution_up, serving_up = (
        went(source=address, target_port=WORKER_PORT),
        went(source=address, source_port=WORKER_PORT),
    )
    contribution_down, serving_down = (
        went(target=address, target_port=WORKER_PORT),
        went(target=address, source_port=WORKER_PORT),
    )
    return Worker(
        contribution_up=contribution_up,
        contribution_down=contribution_down,
        serving_up=serving_up,
        serving_down=serving_down,
        seeding_up=stored,
        control_up=went(source=address) - contribution_up - serving_up - stored,
        control_down=went(target=address) - contribution_down - serving_down,
    )
