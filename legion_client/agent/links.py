"""What the server wants measured, on its way to the engine, and what was found, on its way back.

Links to other workers are the engine's to measure, the line to the server is ours. Nothing is measured where the
network is metered or to rest: then the server is told nothing, and asks again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from legion.errors import LegionError
from legion.ids import WorkerId
from legion.links import SERVER, LinkSample, LinksReport
from legion.messages import PROBE_BYTES, HeartbeatReply, ProbeReply
from legion_client.agent.backoff import persistently
from legion_client.agent.traffic import Traffic
from legion_client.engine.protocol import Command, LinksMeasured, Measure, PeersAway, PeersFound

logger = logging.getLogger(__name__)

PINGS = 5
BURSTS = 3
FIRST_BYTES = 1 << 17
GROWTH = 4  # of a burst, as long as one takes less than SHORT_S
SHORT_S = 0.25


class Server(Protocol):
    async def ping(self) -> None: ...

    async def probe(self, size_bytes: int) -> ProbeReply: ...

    async def burst(self, size_bytes: int) -> None: ...

    async def report_links(self, report: LinksReport) -> None: ...


class LinkRelay:
    """Of one attempt. On the loop."""

    def __init__(
        self,
        server: Server,
        say: Callable[[Command], None],
        traffic: Traffic,
        timer: Callable[[], float] = time.monotonic,
        on_away: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_away`: the server is to be asked for somebody."""
        self._server = server
        self._say = say
        self._traffic = traffic
        self._timer = timer
        self._on_away = on_away
        self.away: tuple[WorkerId, ...] = ()  # members of our plan that the engine cannot reach just now
        self._found: asyncio.Queue[tuple[LinkSample, ...]] = asyncio.Queue()
        self._server_due = asyncio.Event()

    def heed(self, reply: HeartbeatReply, *, engine_hears: bool) -> None:
        if reply.found and self.away and engine_hears:
            self._say(PeersFound(peers=reply.found))
        if not self._traffic.bursts:
            return
        if reply.measure and engine_hears:
            self._say(Measure(peers=reply.measure))
        if reply.measure_server:
            self._server_due.set()

    def miss(self, report: PeersAway) -> None:
        if report.peers:
            logger.info("members are looked for peers=%s", ",".join(report.peers))
        self.away = report.peers
        self._on_away()

    def measured(self, report: LinksMeasured) -> None:
        self._found.put_nowait(report.samples)

    async def deliver(self) -> None:
        """Until cancelled. What the server does not take, as of a worker that was removed, is dropped."""
        while True:
            report = LinksReport(samples=await self._found.get())
            try:
                await persistently("links", self._server.report_links, report)
            except LegionError as error:
                logger.info("links not reported reason=%s", error)

    async def measure_server(self) -> None:
        """Until cancelled: whenever it is asked for."""
        while True:
            await self._server_due.wait()
            self._server_due.clear()
            try:
                self._found.put_nowait(await self._look())
            except LegionError as error:
                logger.info("the line to the server is not measured reason=%s", error)

    async def _look(self) -> tuple[LinkSample, ...]:
        rtt_s = min([await self._timed(self._server.ping()) for _ in range(PINGS)])
        ups, downs = await self._grown(self._up), await self._grown(self._down)
        return tuple(
            LinkSample(peer=SERVER, rtt_s=rtt_s, up_bytes_per_s=up, down_bytes_per_s=down)
            for up, down in zip(ups, downs, strict=True)
        )

    async def _grown(self, burst: Callable[[int], Awaitable[float]]) -> list[float]:
        """Rates of the last bursts, in bytes/s. Bursts go past the limits, so where one was chosen they stay small."""
        size_bytes, chosen = FIRST_BYTES, self._traffic.upload.chosen or self._traffic.download.chosen
        while True:
            started = self._timer()
            first = await burst(size_bytes)
            if self._timer() - started >= SHORT_S or size_bytes >= PROBE_BYTES or chosen:
                return [first, *[await burst(size_bytes) for _ in range(BURSTS - 1)]]
            size_bytes = min(PROBE_BYTES, size_bytes * GROWTH)

    async def _up(self, size_bytes: int) -> float:
        """As the server saw it, but no more than the volunteer gives."""
        started = self._timer()
        reply = await self._server.probe(size_bytes)
        rate = reply.bytes_per_s or size_bytes / max(self._timer() - started, 1e-3)
        return rate if (most := self._traffic.upload.most) is None else min(rate, most)

    async def _down(self, size_bytes: int) -> float:
        return size_bytes / await self._timed(self._server.burst(size_bytes))

    async def _timed(self, call: Awaitable[None]) -> float:
        started = self._timer()
        await call
        return max(self._timer() - started, 1e-6)
