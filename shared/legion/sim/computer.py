"""One simulated computer: its agent, which speaks to the server over the network, and the engine that it starts.

What the agent says and when is what `legion_client.agent` does: heartbeats, plans when a reply names another epoch,
news of rounds after events, reports and updates in order. REST and WebSocket are messages of the same texts.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Protocol

from legion.comm.member import Member
from legion.comm.rounds import Desk
from legion.comm.waiting import Changes
from legion.config import config_digest
from legion.errors import LegionError, NotFound, PeerError, PeerLost, RoundConflict, StepAborted, Unavailable
from legion.ids import ClusterId, Epoch, WorkerId
from legion.messages import PROTOCOL, Endpoint, Heartbeat, HeartbeatReply, ModelShape, Plan, WorkerState
from legion.outer.blobs import BlobFolder
from legion.outer.courier import Courier
from legion.outer.log import Anchor
from legion.reports import EvaluationRecord, StepRecord
from legion.rounds import RootReport, RoundPlan, RoundRecord, SpanReport
from legion.sim.device import DeviceModel
from legion.sim.engine import SimEngine, World, cluster_members
from legion.sim.links import RoundCalls
from legion.sim.storage import Storage

logger = logging.getLogger(__name__)

SERVER: Final = WorkerId("server")
EVENT_BYTES: Final = 128  # of one event on the WebSocket
CLUSTER_FAILED: Final = (PeerError, StepAborted)  # what ends a membership, and not the simulation
ENDPOINT: Final = Endpoint(host="127.0.0.1", port=1)  # nobody dials: links are direct calls


class Server(Protocol):
    """The coordinator, as its REST interface shows it. Called when a request has arrived; answers at once."""

    @property
    def over(self) -> bool:
        """Every round is committed."""

    @property
    def events(self) -> int:
        """How many were sent so far."""

    @property
    def changes(self) -> Changes: ...

    def heard(self, worker: WorkerId, beat: Heartbeat) -> HeartbeatReply: ...

    def goodbye(self, worker: WorkerId) -> None: ...

    def plan_of(self, worker: WorkerId) -> Plan | None: ...

    def page(self, since: int) -> tuple[Sequence[RoundPlan], Sequence[RoundRecord], int]:
        """Plans and records from `since` on, and how long their text is."""

    def steps_done(self, worker: WorkerId, epoch: Epoch, steps: Sequence[StepRecord]) -> None: ...

    def reduced(self, worker: WorkerId, report: SpanReport) -> None:
        """RoundConflict, ReportInvalid."""

    def uploaded(self, sha256: str) -> None: ...

    def applied(self, worker: WorkerId, report: RootReport) -> None: ...


class Town:
    """All computers, the server and storage."""

    def __init__(self, world: World, server: Server, storage: Storage, shape: ModelShape) -> None:
        self.world = world
        self.server = server
        self.storage = storage
        self.shape = shape
        self.config_digest = config_digest(world.config)
        self.computers: dict[WorkerId, Computer] = {}
        self._members: dict[Epoch, Mapping[WorkerId, Member]] = {}

    def desk(self, worker: WorkerId) -> Desk | None:
        return self.computers[worker].courier

    def members(self, plan: Plan) -> Mapping[WorkerId, Member]:
        """Of the plan's cluster; the same for all of them."""
        if plan.epoch not in self._members:
            self._members[plan.epoch] = cluster_members(self.world, plan)
        return self._members[plan.epoch]

    def forget(self, epoch: Epoch) -> None:
        self._members.pop(epoch, None)


class Computer:
    """`live` is its whole life. Implements `courier.Control` and `loop.Listener`."""

    def __init__(
        self, town: Town, me: WorkerId, device: DeviceModel, heard: Callable[["Computer", StepRecord], None]
    ) -> None:
        self.me = me
        self.device = device
        self._town = town
        self._network = town.world.network
        self._server = town.server
        self._heard = heard
        self._clock = asyncio.get_running_loop().time
        self._state: WorkerState = "ready"
        self._epoch = Epoch(0)
        self._step = 0
        self._engine: SimEngine | None = None
        self._changes = Changes()
        self._due = False  # news may be there
        self._off = False
        self._records: list[StepRecord] = []  # not reported yet
        self._spans: deque[tuple[SpanReport, BlobFolder]] = deque()
        self._roots: deque[RootReport] = deque()
        self._earlier_s = 0.0  # of computing in memberships before this one
        self._gone: tuple[ClusterId, ...] = ()
        self._entering = 0  # round
        self._seen = 0  # events of the server
        self._calls = RoundCalls(self._network, me, town.desk)

    @property
    def courier(self) -> Courier | None:
        """While it takes part in rounds."""
        return self._engine.courier if self._engine else None

    @property
    def computed_s(self) -> float:
        """Virtual seconds of computing so far."""
        return self._earlier_s + (self._engine.computed_s if self._engine else 0.0)

    # Life.

    async def live(self) -> None:
        """Until the run is over and nothing more is to be delivered. Cancelled: it is switched off."""
        self._off = False
        while not (self._server.over or self._off):
            plan = await self._until_planned()
            if plan is not None:
                with contextlib.suppress(*CLUSTER_FAILED):
                    await self._take_part(plan)

    def depart(self) -> None:
        """Its owner wants it back, now: cancel `live` then, which may be ending a membership and not heed it."""
        self._off = True
        self._network.disconnect(self.me)
        if self._engine is not None:
            self._engine.leave(PeerLost(f"{self.me} was switched off"))

    async def _until_planned(self) -> Plan | None:
        """Ready, with an engine that built the model, until there is a plan for us. None: the run is over."""
        self._state, self._epoch, self._step = "ready", Epoch(0), 0
        async with self._listening():
            while not self._server.over:
                reply = await self._beat()
                if reply.epoch != self._epoch:
                    await self._ask(0)
                    plan = self._server.plan_of(self.me)
                    await self._answer(len(plan.model_dump_json()) if plan else 0)
                    if plan is not None:
                        return plan
                await self._pause(reply.interval_s)
        return None

    async def _take_part(self, plan: Plan) -> None:
        town = self._town
        self._state, self._epoch = "training", plan.epoch
        engine = self._engine = SimEngine(town.world, self.device, plan, town.members(plan), self.me, self)
        self._calls = RoundCalls(self._network, self.me, town.desk)
        self._calls.fetched = "join" if plan.round > 0 else "serving"
        self._entering = plan.round
        try:
            async with self._listening(), asyncio.TaskGroup() as tasks:
                parts = [tasks.create_task(part) for part in (self._beats(), self._deliver(), self._follow(plan))]
                start = await self._start_of(plan)
                await engine.train_in_rounds(start, self._calls, self, self._changes.happened)
                await self._changes.until(lambda: not self._spans and not self._roots)
                for part in parts:
                    part.cancel()
        except BaseExceptionGroup as failed:
            ours = failed.subgroup(LegionError)
            raise (ours or failed).exceptions[0] from None
        finally:
            self._earlier_s += engine.computed_s
            if not self._server.over:
                engine.leave(PeerLost(f"{self.me} has left its cluster"))
            self._engine = None
            for waiting in (self._spans, self._roots, self._records):
                waiting.clear()
            town.forget(plan.epoch)

    async def _start_of(self, plan: Plan) -> Anchor:
        anchor = self._first_anchor(plan)
        start = self._town.storage.whole(anchor)
        if anchor:
            await self._ask(0)
            member = self._town.members(plan)[self.me]
            tensors = 1 if start.momentum is None else 2
            size = 4 * tensors * member.layout.owned(member.group.rank)
            await self._network.carry(SERVER, self.me, "join", values_bytes=size)
        return start

    def _first_anchor(self, plan: Plan) -> int:
        return -(-plan.first_step // self._town.world.config.rounds.steps)

    # Between the agent and the server.

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        listener = asyncio.create_task(self._listen())
        self._due = True
        try:
            yield
        finally:
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError, PeerError):
                await listener

    async def _listen(self) -> None:
        self._seen = self._server.events
        while True:
            await self._server.changes.until(lambda: self._server.events > self._seen)
            self._seen = self._server.events
            await self._answer(EVENT_BYTES)
            self._due = True
            self._changes.happened()

    async def _pause(self, seconds: float) -> None:
        """Shorter, if there may be news."""
        self._due = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changes.until(lambda: self._due)

    async def _beat(self) -> HeartbeatReply:
        town, engine = self._town, self._engine
        beat = Heartbeat(
            protocol=PROTOCOL,
            state=self._state,
            epoch=self._epoch,
            step=self._step,
            endpoint=ENDPOINT,
            shape=town.shape,
            config_digest=town.config_digest,
            anchor=engine.anchor if engine else -1,
        )
        await self._ask(len(beat.model_dump_json()))
        reply = self._server.heard(self.me, beat)
        await self._answer(len(reply.model_dump_json()))
        return reply

    async def _beats(self) -> None:
        while True:
            reply = await self._beat()
            if self.courier is not None and reply.gone != self._gone:
                self._gone = reply.gone
                self.courier.clusters_gone(frozenset(reply.gone))
            if self._records:
                records, self._records = self._records, []
                await self._ask(sum(len(record.model_dump_json()) for record in records))
                self._server.steps_done(self.me, self._epoch, records)
                await self._answer(0)
            await asyncio.sleep(reply.interval_s)

    async def _follow(self, plan: Plan) -> None:
        """News of rounds to the engine."""
        since = self._first_anchor(plan)
        while True:
            await self._changes.until(lambda: self._due and self.courier is not None)
            self._due = False
            await self._ask(0)
            plans, records, text_bytes = self._server.page(since)
            await self._answer(text_bytes)
            if self.courier is None:
                return
            for record in records:
                self.courier.record_arrived(record)
                since = record.round + 1
            for round_plan in plans:
                self.courier.plan_arrived(round_plan)
            self._due = self._due or bool(records)  # there may be more

    async def _deliver(self) -> None:
        """Reports and updates, one after the other."""
        while True:
            await self._changes.until(lambda: bool(self._spans or self._roots))
            while self._spans:
                await self._deliver_span(*self._spans[0])
                self._spans.popleft()
            while self._roots:
                await self._ask(len(self._roots[0].model_dump_json()))
                self._server.applied(self.me, self._roots[0])
                await self._answer(0)
                self._roots.popleft()
            self._changes.happened()

    async def _deliver_span(self, report: SpanReport, blobs: BlobFolder) -> None:
        await self._ask(len(report.model_dump_json()))
        try:
            self._server.reduced(self.me, report)
        except (RoundConflict, NotFound) as error:
            logger.warning("update not taken round=%d span=%d why=%s", report.round, report.span, error)
            await self._answer(0)
            return
        await self._answer(0)
        if report.audit:
            return
        data = blobs.read(report.digest)
        await self._network.carry(self.me, SERVER, "checkpoint", values_bytes=len(data))
        self._town.storage.blobs.put(report.digest, data)
        self._server.uploaded(report.digest)
        await self._answer(0)

    async def _ask(self, text_bytes: int) -> None:
        await self._network.carry(self.me, SERVER, "control", text_bytes=text_bytes)

    async def _answer(self, text_bytes: int) -> None:
        await self._network.carry(SERVER, self.me, "control", text_bytes=text_bytes)

    # From the engine: see courier.Control and loop.Listener.

    async def reduced(self, report: SpanReport, blobs: BlobFolder) -> None:
        self._spans.append((report, blobs))
        self._changes.happened()

    def applied(self, report: RootReport) -> None:
        if report.round >= self._entering:
            self._calls.fetched = "serving"
        self._roots.append(report)
        self._changes.happened()

    async def download(self, sha256: str, size_bytes: int) -> bytes:
        await self._ask(len(sha256))
        blobs = self._town.storage.blobs
        if not blobs.has(sha256):
            await self._answer(0)
            raise Unavailable(f"update {sha256[:12]} is not in storage")
        data = bytes(blobs.read(sha256))
        await self._network.carry(SERVER, self.me, self._calls.fetched, values_bytes=len(data))
        return data

    def step_done(self, record: StepRecord) -> None:
        # What this machine has is no part of a simulation, and would make texts longer or shorter.
        record = record.model_copy(update={"peak_rss_bytes": 0})
        self._step = record.step
        self._records.append(record)
        self._heard(self, record)

    def evaluated(self, record: EvaluationRecord) -> None:
        """Losses are measured beside the run."""

    def checkpoint_due(self, step: int, tokens: int) -> None:
        """Of runs without rounds."""
