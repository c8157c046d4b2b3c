"""Workers whose identity is used in two places at once: noticed by their heartbeats, told to both, counted."""

import logging
from collections.abc import Callable

from legion.errors import WorkerDoubled
from legion.ids import WorkerId, short
from legion_server.domain.instances import Instances, Program, heard, newcomer_of

logger = logging.getLogger(__name__)


class Doubles:
    """Belongs to the loop. What it knows goes with the process: two that go on are found out again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[WorkerId, Instances] = {}
        self.count = 0

    def heard(self, worker_id: WorkerId, instance: str | None, host: str) -> str:
        """What to tell it of another one; nothing, mostly. WorkerDoubled: it is the newer of two."""
        if instance is None:
            return ""
        now = self._clock()
        found = heard(self._known.get(worker_id), Program(instance, host), now)
        known = self._known[worker_id] = found.instances
        other = newcomer_of(known, now)
        if found.doubled and other is not None:
            self.count += 1
            logger.warning("worker in two places worker=%s host=%s newer=%s", worker_id, host, other.host)
        if found.refused:
            raise WorkerDoubled(f"another program, at {known.now.host}, is worker {short(worker_id)} already")
        if other is None:
            return ""
        return f"a second program with this computer's identity was started at {other.host}; it has been turned away"
