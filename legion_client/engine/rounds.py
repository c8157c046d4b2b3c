"""Rounds in an engine: a courier that speaks to the coordinator and to storage through the agent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from legion.comm.bridge import Bridge
from legion.comm.network import PeerNetwork
from legion.comm.rounds import RoundLinks
from legion.config import RunConfig
from legion.errors import StorageFailed, Unavailable
from legion.identity import Identity
from legion.messages import Message
from legion.outer.blobs import BlobFolder
from legion.outer.courier import Courier
from legion.outer.member import Place
from legion.rounds import RootReport, RoundPlan, SpanReport
from legion_client.engine.protocol import UPDATES, AnchorReached, RoundNews, SpanReduced, UpdateHere, UpdateWanted

DOWNLOAD_S = 600.0  # for the agent to answer
NAMED_ROUNDS = 3  # the newest, the one that is committed meanwhile, and one for who is late


class AgentControl:
    """See `courier.Control`: reports to the agent, and its answers."""

    def __init__(self, report: Callable[[Message], None]) -> None:
        self._report = report
        self._wanted: dict[str, asyncio.Future[Path | None]] = {}
        self._turn = asyncio.Lock()  # the agent fetches one at a time, and into one place if it is the same again

    async def reduced(self, report: SpanReport, blobs: BlobFolder) -> None:
        self._report(SpanReduced(report=report, path=blobs.path(report.digest)))

    def applied(self, report: RootReport) -> None:
        self._report(AnchorReached(report=report))

    async def download(self, sha256: str, size_bytes: int) -> bytes:
        async with self._turn:
            return await asyncio.to_thread(_taken, await self._found(sha256, size_bytes))

    async def _found(self, sha256: str, size_bytes: int) -> Path:
        found: asyncio.Future[Path | None] = asyncio.get_running_loop().create_future()
        self._wanted[sha256] = found
        self._report(UpdateWanted(sha256=sha256, size_bytes=size_bytes))
        try:
            async with asyncio.timeout(DOWNLOAD_S):
                path = await found
        except TimeoutError:
            raise Unavailable(f"the agent did not say where update {sha256[:12]} is") from None
        finally:
            del self._wanted[sha256]
        if path is None:
            raise Unavailable(f"update {sha256[:12]} is not in storage")
        return path

    def here(self, answer: UpdateHere) -> None:
        found = self._wanted.get(answer.sha256)
        if found is not None and not found.done():
            found.set_result(answer.path)


class Rounds:
    """What a session has of rounds. News may come before anybody trains; it waits here."""

    def __init__(self, report: Callable[[Message], None]) -> None:
        self._control = AgentControl(report)
        self._early: list[RoundNews] = []
        self._courier: Courier | None = None
        self._links: RoundLinks | None = None
        self._plans: dict[int, RoundPlan] = {}  # of the last rounds
        self._waking = False

    def hear(self, command: RoundNews | UpdateHere) -> None:
        if isinstance(command, UpdateHere):
            self._control.here(command)
        elif self._courier is None:
            self._early.append(command)
        else:
            self._tell(self._courier, command)

    def wake(self) -> None:
        """The engine stops: the compute thread must not wait for a round."""
        self._waking = True
        if self._courier is not None:
            self._courier.wake()

    @contextlib.asynccontextmanager
    async def taking_part(
        self, config: RunConfig, identity: Identity, place: Place, anchor: int, network: PeerNetwork, work_dir: Path
    ) -> AsyncIterator[Courier]:
        """A courier at work for the time of the block."""
        links = RoundLinks(identity, network.rounds.usage, network.rounds.line)
        blobs = await asyncio.to_thread(BlobFolder, work_dir / UPDATES)
        bridge = Bridge(asyncio.get_running_loop(), network.rounds.usage)
        courier = Courier(identity.worker_id, config.averaging, place, anchor, links, self._control, blobs, bridge)
        try:
            async with courier.working():
                self._courier = network.rounds.desk = courier
                if self._waking:
                    courier.wake()
                self._links = links
                for news in self._early:
                    self._tell(courier, news)
                yield courier
        finally:
            self._courier = network.rounds.desk = self._links = None
            await links.close()

    def _tell(self, courier: Courier, news: RoundNews) -> None:
        for record in news.records:
            courier.record_arrived(record)
        for plan in sorted(news.plans, key=lambda plan: plan.round):
            courier.plan_arrived(plan)
        courier.clusters_gone(frozenset(news.gone))
        if news.plans and self._links is not None:
            self._plans = recent(self._plans, news.plans)
            self._links.keep(member for plan in self._plans.values() for member in plan.workers.values())


def recent(known: Mapping[int, RoundPlan], plans: Sequence[RoundPlan]) -> dict[int, RoundPlan]:
    """The newest revision of the last rounds' plans: who they name may still be called."""
    found = dict(known)
    for plan in plans:
        if plan.round not in found or found[plan.round].revision < plan.revision:
            found[plan.round] = plan
    return {number: plan for number, plan in found.items() if number > max(found) - NAMED_ROUNDS}


def _taken(path: Path) -> bytes:
    """The file's content; the agent leaves it to us."""
    try:
        data = path.read_bytes()
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageFailed(f"{path} cannot be read: {error.strerror}") from error
    return data
