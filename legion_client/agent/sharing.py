"""Looks how long the way to the server takes while much is moved, and leaves room on the line when that doubles.

A round trip is that of a TCP handshake with the server's port: the kernels at both ends make it, so that neither a busy
program here nor one there passes for a queue. Our queue is before our own line, so it holds up whatever takes that
line, wherever the bytes go: the server's way tells of those to other workers too.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from socket import SOCK_STREAM, socket
from typing import Final

import httpx

from legion_client.agent.enrolment import Enrolment
from legion_client.agent.traffic import Traffic
from legion_client.machine.congestion import LOADED_BYTES_PER_S, Line, sampled

logger = logging.getLogger(__name__)

LOADED_LOOK_S: Final = 0.25
ENGINE_LOOK_S: Final = 1.0  # whether it moves anything: it fills a queue in a second
IDLE_LOOK_S: Final = 5.0
BASE_S: Final = 10.0  # between two round trips that only keep the base: some 50 MB of packets a month
GIVE_UP_S: Final = 3.0  # a handshake whose first packet was dropped: the queue is full
MOVED_S: Final = 1.0  # over which what is moved is averaged: an engine tells four times in it

Trip = Callable[[], Awaitable[float | None]]


class Sharing:
    """One agent's. Upload and download share the round trips; who moves more of the two is slowed down."""

    def __init__(
        self,
        traffic: Traffic,
        round_trip: Trip,
        is_asked_for: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`round_trip`: in s, None: there is no answer. `is_asked_for`: by the volunteer, and the bytes leave home."""
        self._traffic = traffic
        self._round_trip = round_trip
        self._is_asked_for = is_asked_for
        self._clock = clock
        self._moved: list[tuple[float, int, int]] = []
        self.up = self.down = Line()

    async def keep(self) -> None:
        """Until cancelled."""
        try:
            while True:
                pause_s = await self.look()
                await asyncio.sleep(pause_s)
        finally:
            self._traffic.share(None, None)

    async def look(self) -> float:
        """Once. Seconds until the next look."""
        up, down = self._speeds()
        if not self._is_asked_for():
            self.up = self.down = Line()
            self._traffic.share(None, None)
            return self._unloaded_s
        loaded = max(up, down) >= LOADED_BYTES_PER_S
        if not loaded and self._clock() - self.up.at < BASE_S and self.up.at:
            return self._unloaded_s
        trip_s, now = await self._round_trip(), self._clock()
        if trip_s is None:
            return self._unloaded_s
        before = self.up.bytes_per_s, self.down.bytes_per_s
        # The other direction's samples are the same: as of one that moves nothing they tell of the base alone.
        self.up = sampled(self.up, trip_s, up if up >= down else 0.0, now)
        self.down = sampled(self.down, trip_s, down if down > up else 0.0, now)
        if up >= LOADED_BYTES_PER_S:
            self.up = replace(self.up, loaded_at=now)
        if down >= LOADED_BYTES_PER_S:
            self.down = replace(self.down, loaded_at=now)
        self._traffic.share(self.up.bytes_per_s, self.down.bytes_per_s)
        self._tell(before, trip_s)
        return LOADED_LOOK_S if loaded and self.up.most_s is not None else self._unloaded_s

    @property
    def _unloaded_s(self) -> float:
        return ENGINE_LOOK_S if self._traffic.has_engine else IDLE_LOOK_S

    def _speeds(self) -> tuple[float, float]:
        now, (sent, received) = self._clock(), self._traffic.totals
        self._moved.append((now, sent, received))
        while len(self._moved) > 2 and now - self._moved[1][0] >= MOVED_S:
            del self._moved[0]
        at, sent_before, received_before = self._moved[0]
        elapsed_s = max(now - at, LOADED_LOOK_S)
        return (sent - sent_before) / elapsed_s, (received - received_before) / elapsed_s

    def _tell(self, before: tuple[float | None, float | None], trip_s: float) -> None:
        now = self.up.bytes_per_s, self.down.bytes_per_s
        for way, was, rate in zip(("upload", "download"), before, now, strict=True):
            if rate is not None and (was is None or rate < was):
                logger.info("line shared way=%s bytes_per_s=%.0f round_trip_ms=%.0f", way, rate, trip_s * 1000)
            elif rate is None and was is not None:
                logger.info("line free way=%s", way)


async def kept(traffic: Traffic, enrolment: Enrolment, is_asked_for: Callable[[], bool]) -> None:
    """Room is left on the way to this server until cancelled."""
    await Sharing(traffic, handshake_with(enrolment.base_url), is_asked_for).keep()


def handshake_with(base_url: str) -> Trip:
    """Round trips to a server."""
    url = httpx.URL(base_url)
    port = url.port or (443 if url.scheme == "https" else 80)

    async def round_trip() -> float | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(GIVE_UP_S):
                [first, *_] = await loop.getaddrinfo(url.host, port, type=SOCK_STREAM)
                with socket(first[0], SOCK_STREAM) as probe:
                    probe.setblocking(False)
                    started = time.perf_counter()
                    await loop.sock_connect(probe, first[4])
                    return time.perf_counter() - started
        except TimeoutError:
            return GIVE_UP_S
        except OSError as error:
            logger.debug("round trip not measured reason=%s", error)
            return None

    return round_trip
