"""How fast this computer's line is upwards, by short bursts to the server: the volunteer's limit is a share of it.

Nobody trusts a single burst: the estimate is the median of the newest few, and what is old no longer counts.
"""

import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, Field, ValidationError

from legion.errors import LegionError
from legion.messages import PROBE_BYTES, ProbeReply
from legion_client.machine.readings import Readings
from legion_client.machine.volume import write_whole

logger = logging.getLogger(__name__)

FIRST_BYTES = 128 << 10
GROWTH = 8  # of a burst, as long as one takes less than SHORT_S
SHORT_S = 0.5
BURSTS = 3  # of the last size
KEPT = 5  # samples
DAY_S = 86_400.0
MOST_AGE_S = 14 * DAY_S
LOOK_S = 600.0  # between two looks whether it is time


class Sample(BaseModel, frozen=True, extra="forbid"):
    at: float  # s since 1970
    bytes_per_s: float = Field(gt=0, allow_inf_nan=False)


class Estimate(BaseModel, frozen=True, extra="forbid"):
    """`samples`: the newest last. Pure."""

    samples: tuple[Sample, ...] = ()

    def bytes_per_s(self, now: float) -> float | None:
        young = [sample.bytes_per_s for sample in self.samples if now - sample.at <= MOST_AGE_S]
        return statistics.median(young) if young else None

    def is_due(self, now: float) -> bool:
        """Once a day, also after a clock that was ahead."""
        return not self.samples or not 0 <= now - self.samples[-1].at < DAY_S

    def with_sample(self, sample: Sample) -> "Estimate":
        """What a clock has put into the future is forgotten."""
        known = [before for before in self.samples if before.at <= sample.at]
        return Estimate(samples=(*known, sample)[-KEPT:])


class Server(Protocol):
    async def probe(self, size_bytes: int) -> ProbeReply: ...


class Uplink:
    """Belongs to the event loop's thread. `path`: where the estimate outlives this process."""

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._clock = clock
        self._timer = timer
        self._estimate = _load(path)

    @property
    def bytes_per_s(self) -> float | None:
        return self._estimate.bytes_per_s(self._clock())

    def beside(
        self, read: Callable[[], Awaitable[Readings]], leaves_house: Callable[[], bool]
    ) -> Callable[[], Awaitable[Readings]]:
        """What the sensors read, with the estimate as long as what is sent leaves the house.

        What a cluster of several exchanges does not, and is hundreds of times more than any uplink carries.
        """

        async def reading() -> Readings:
            return replace(await read(), uplink_bytes_per_s=self.bytes_per_s if leaves_house() else None)

        return reading

    async def keep(self, server: Server, is_free: Callable[[], bool]) -> None:
        """Until cancelled: measure now and then, while nothing else uses the line and it may be used."""
        while True:
            await self.measure_if_due(server, is_free)
            await asyncio.sleep(LOOK_S)

    async def measure_if_due(self, server: Server, is_free: Callable[[], bool]) -> None:
        """A server that does not answer, or measures others, is asked at the next look."""
        if not (self._estimate.is_due(self._clock()) and is_free()):
            return
        try:
            await self._measure(server)
        except LegionError as error:
            logger.info("uplink not measured reason=%s", error)

    async def _measure(self, server: Server) -> None:
        size_bytes = FIRST_BYTES
        took_s, reply = await self._burst(server, size_bytes)
        while took_s < SHORT_S and size_bytes < PROBE_BYTES:
            size_bytes = min(PROBE_BYTES, size_bytes * GROWTH)
            took_s, reply = await self._burst(server, size_bytes)
        self._take(reply, took_s)
        for _ in range(BURSTS - 1):
            took_s, reply = await self._burst(server, size_bytes)
            self._take(reply, took_s)
        logger.info("uplink measured bytes_per_s=%.0f", self.bytes_per_s or 0)
        await asyncio.to_thread(_save, self._path, self._estimate)

    async def _burst(self, server: Server, size_bytes: int) -> tuple[float, ProbeReply]:
        started = self._timer()
        reply = await server.probe(size_bytes)
        return self._timer() - started, reply

    def _take(self, reply: ProbeReply, took_s: float) -> None:
        """By the server's clock where it could tell, else by ours."""
        bytes_per_s = reply.bytes_per_s or reply.received_bytes / max(took_s, 1e-3)
        self._estimate = self._estimate.with_sample(Sample(at=self._clock(), bytes_per_s=bytes_per_s))


def _save(path: Path, estimate: Estimate) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, estimate.model_dump_json())
    except OSError as error:
        logger.warning("the measured uplink cannot be kept path=%s reason=%s", path, error.strerror)


def _load(path: Path) -> Estimate:
    """What cannot be read is measured again."""
    try:
        return Estimate.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Estimate()
    except (OSError, ValidationError) as error:
        logger.info("the measured uplink is not known path=%s reason=%s", path, error)
        return Estimate()
