"""What the engine produced, on its way to the server: records and slices.

Invariant: nothing is dropped before the server has acknowledged it, or its plan was given up. Records outlive the
agent, too: see `unsent`.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from legion.errors import StorageFailed
from legion.ids import Epoch
from legion.reports import MOST_SAMPLES, EvaluationRecord, MetricsReport, StepRecord, TextSample
from legion_client.agent.backoff import persistently
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.unsent import Record, Unsent
from legion_client.engine.protocol import SliceWritten

logger = logging.getLogger(__name__)

BATCH_S = 1.0  # records wait this long for company
BATCH_RECORDS = 500
REWRITE_RECORDS = 2000  # acknowledged ones that may stand in the file while others wait


class Outbox:
    """Two queues, each emptied in order by one task. Records of one epoch are reported together."""

    def __init__(self, coordinator: Coordinator, unsent: Unsent) -> None:
        self._coordinator = coordinator
        self._unsent = unsent
        self._records: deque[tuple[Epoch, Record]] = deque(unsent.read())
        self._taken = 0  # acknowledged, and still in the file
        self._slices: deque[tuple[Epoch, SliceWritten]] = deque()
        self._record_waits = asyncio.Event()
        self._slice_waits = asyncio.Event()
        self._hurry = asyncio.Event()
        self._delivered = asyncio.Condition()
        if self._records:
            logger.info("records of an agent before wait count=%d", len(self._records))
            self._record_waits.set()

    def add_record(self, epoch: Epoch, record: Record) -> None:
        self._records.append((epoch, record))
        self._unsent.add((epoch, record))
        self._record_waits.set()

    def add_slice(self, epoch: Epoch, written: SliceWritten) -> None:
        self._slices.append((epoch, written))
        self._slice_waits.set()

    async def forget(self, *, records: bool) -> None:
        """What was not acknowledged is of a plan that was given up. Nothing may be sending.

        Without `records` these are kept: what they tell of happened, and may have become part of the run.
        """
        self._slices.clear()
        self._slice_waits.clear()
        if records:
            self._records.clear()
            self._record_waits.clear()
            self._unsent.replace(())
        await self._announce()

    async def drained(self) -> None:
        """Returns once everything is acknowledged; from the call on, nothing waits for company."""
        self._hurry.set()
        async with self._delivered:
            await self._delivered.wait_for(lambda: not self._records and not self._slices)

    async def send_records(self) -> None:
        """Until cancelled. Raises what repeating does not cure."""
        while True:
            await self._record_waits.wait()
            await self._pause()
            epoch, batch = self._next_batch()
            await persistently("metrics", self._coordinator.report, report_of(epoch, batch))
            for _ in batch:
                self._records.popleft()
            self._taken += len(batch)
            if not self._records or self._taken >= REWRITE_RECORDS:
                self._unsent.replace(self._records)
                self._taken = 0
            if not self._records:
                self._record_waits.clear()
            await self._announce()

    async def send_slices(self) -> None:
        """Until cancelled; a slice's file is removed once the server has it. Raises what repeating does not cure."""
        while True:
            await self._slice_waits.wait()
            epoch, written = self._slices[0]
            await persistently(f"slice of step {written.step}", self._coordinator.upload_slice, epoch, written)
            await asyncio.to_thread(remove, written.path)
            logger.info("slice delivered step=%d size_bytes=%d", written.step, written.size_bytes)
            self._slices.popleft()
            if not self._slices:
                self._slice_waits.clear()
            await self._announce()

    def _next_batch(self) -> tuple[Epoch, list[Record]]:
        epoch = self._records[0][0]
        first = itertools.islice(self._records, BATCH_RECORDS)
        return epoch, [record for _, record in itertools.takewhile(lambda each: each[0] == epoch, first)]

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(BATCH_S):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _announce(self) -> None:
        async with self._delivered:
            self._delivered.notify_all()


def report_of(epoch: Epoch, records: Sequence[Record]) -> MetricsReport:
    """Of samples the newest, as many as a server takes: after a long silence nobody reads the others."""
    samples = [record for record in records if isinstance(record, TextSample)]
    return MetricsReport(
        epoch=epoch,
        steps=tuple(record for record in records if isinstance(record, StepRecord)),
        evaluations=tuple(record for record in records if isinstance(record, EvaluationRecord)),
        samples=tuple(samples[-MOST_SAMPLES:]),
    )


def remove(path: Path) -> None:
    """A file that is gone already is fine."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageFailed(f"{path} cannot be removed: {error.strerror}") from error
