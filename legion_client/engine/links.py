"""The engine's looks at its links to other workers: when the agent says so, and when transfers tell another story."""

import asyncio
import logging
import statistics
from typing import Final

from legion.comm.link_probe import LinkProbe
from legion.comm.network import PeerNetwork
from legion.errors import Unavailable
from legion.identity import Identity
from legion.ids import WorkerId
from legion.links import LinkSample
from legion.messages import LinkPeer
from legion_client.engine.protocol import LinksMeasured, Measure, PeersAway, PeersFound, Rates
from legion_client.engine.speaker import Report

logger = logging.getLogger(__name__)

CONTRADICTS: Final = 4.0  # times faster or slower than measured
SEVERAL: Final = 8  # transfers in a row that contradict, before they are a sample
SAMPLES: Final = 3  # of that kind: then they outvote what was measured before, and are what is known
LEAST_BYTES: Final = 65_536  # of a transfer; smaller ones say nothing about speed
BUFFERED_BYTES: Final = 4 << 20  # of a transfer that seems fast: less may have come before it was read


class Doubts:
    """Transfers from one peer against what was measured. Pure."""

    def __init__(self, known_bytes_per_s: float) -> None:
        self._known = known_bytes_per_s
        self._rates: list[float] = []
        self._told: list[float] = []

    def transferred(self, size_bytes: int, took_s: float) -> float | None:
        """A sample, in bytes/s, once several transfers in a row have contradicted."""
        if size_bytes < LEAST_BYTES or took_s <= 0:
            return None
        rate = size_bytes / took_s
        too_fast = rate > self._known * CONTRADICTS and size_bytes >= BUFFERED_BYTES
        if not (too_fast or rate < self._known / CONTRADICTS):
            self._rates.clear()
            return None
        self._rates.append(rate)
        if len(self._rates) < SEVERAL:
            return None
        found = statistics.median(self._rates)
        self._rates.clear()
        self._told.append(found)
        if len(self._told) == SAMPLES:
            self._known = statistics.median(self._told)
            self._told.clear()
        return found


class Links:
    """One look after the other, in a task of its own. On the loop."""

    def __init__(self, identity: Identity, network: PeerNetwork, report: Report) -> None:
        self._network = network
        self._service = network.links
        self._away: set[WorkerId] = set()
        self._probe = LinkProbe(identity, network.links)
        self._report = report
        self._due: dict[WorkerId, LinkPeer] = {}
        self._looking: asyncio.Task[None] | None = None
        self._doubts: dict[WorkerId, Doubts] = {}

    def measure(self, command: Measure) -> None:
        """Said again before it is done, it is done once."""
        self._due |= {peer.worker_id: peer for peer in command.peers}
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="links")

    def away(self, peer: WorkerId, away: bool) -> None:
        """A member of the plan cannot be reached, or can be again."""
        (self._away.add if away else self._away.discard)(peer)
        self._report(PeersAway(peers=tuple(sorted(self._away))))

    def found(self, command: PeersFound) -> None:
        for peer in command.peers:
            self._network.found(peer.worker_id, peer.endpoint)

    def limit(self, rates: Rates) -> None:
        house = self._service.house
        house.open = rates.bursts
        house.upload.limit(rates.house_upload_bytes_per_s)
        house.download.limit(rates.house_download_bytes_per_s)

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes sent and received inside the house, which the line does not count."""
        house = self._service.house
        return house.upload.passed_bytes, house.download.passed_bytes

    def transferred(self, peer: WorkerId, size_bytes: int, took_s: float) -> None:
        """Weights came from a peer. What was never measured cannot be contradicted."""
        rate = self._doubts[peer].transferred(size_bytes, took_s) if peer in self._doubts else None
        if rate is not None:
            logger.info("a link differs from what was measured peer=%s bytes_per_s=%.0f", peer, rate)
            self._report(LinksMeasured(samples=(LinkSample(peer=peer, down_bytes_per_s=rate),)))

    async def _look(self) -> None:
        while self._due:
            peer = self._due.pop(next(iter(self._due)))
            try:
                samples = await self._probe.look(peer)
            except Unavailable as error:
                logger.info("link not measured peer=%s reason=%s", peer.worker_id, error)
                continue
            downs = [sample.down_bytes_per_s for sample in samples if sample.down_bytes_per_s is not None]
            if downs:
                self._doubts[peer.worker_id] = Doubts(statistics.median(downs))
            self._report(LinksMeasured(samples=tuple(samples)))
            logger.info("link measured peer=%s outcome=%s", peer.worker_id, samples[0].outcome)
