"""What one member saw in one step."""

import time
from collections.abc import Callable

from legion.comm.api import Usage
from legion.reports import StepRecord
from legion.train.device import peak_rss_bytes
from legion.zero.engine import Committed


class StepMeter:
    """Runs from one record to the next: every second and byte of the run is in exactly one step."""

    def __init__(self, usage: Usage, clock: Callable[[], float] | None = None) -> None:
        """`clock`: s; the simulator has another than this machine's."""
        self._usage = usage
        self._clock = clock or time.perf_counter
        self._restart()

    def _restart(self) -> None:
        usage = self._usage
        self._before = (usage.sent_bytes, usage.received_bytes, usage.waiting_s)
        self._started = self._clock()

    def record(
        self, *, step: int, outcome: Committed, lr: float, tokens: int, micro_batches: int, state_bytes: int
    ) -> StepRecord:
        """`tokens` and `micro_batches` are this member's own."""
        usage = self._usage
        sent, received, waited = self._before
        step_s = self._clock() - self._started
        waiting_s = min(usage.waiting_s - waited, step_s)
        record = StepRecord(
            step=step,
            loss=outcome.loss,
            grad_norm=outcome.grad_norm,
            lr=lr,
            step_tokens=outcome.tokens,
            tokens=tokens,
            micro_batches=micro_batches,
            step_s=step_s,
            compute_s=step_s - waiting_s,
            waiting_s=waiting_s,
            sent_bytes=usage.sent_bytes - sent,
            received_bytes=usage.received_bytes - received,
            peak_rss_bytes=peak_rss_bytes(),
            state_bytes=state_bytes,
        )
        self._restart()
        return record
