"""A worker whose relay speaks to a real server; the engine is played by whoever tests."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from legion.codec.registry import by_name
from legion.config import config_digest
from legion.errors import NotFound
from legion.ids import Epoch
from legion.messages import PROTOCOL, Endpoint, Heartbeat, HeartbeatReply, ModelShape, TensorShape, UnitShape
from legion.outer.log import blob_of
from legion.rounds import RootReport, RoundPlan, SpanReport
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.enrolment import Enrolment
from legion_client.agent.joining import join
from legion_client.agent.rounds import RoundRelay
from legion_client.engine.protocol import Command, RoundNews, SpanReduced, UpdateHere, UpdateWanted
from legion_client.machine.probe import hardware

SHAPE = ModelShape(units=(UnitShape(name="all", tensors=(TensorShape(name="w", shape=(8192,)),)),))  # two chunks
ROUNDS = 100
WITHIN_S = 15.0  # for anything that must come


@dataclass
class Worker:
    """One worker of the run: its relay at work, and what that says to the engine."""

    server: Coordinator
    folder: Path
    said: "asyncio.Queue[Command]" = field(default_factory=asyncio.Queue)
    relay: RoundRelay = field(init=False)

    def __post_init__(self) -> None:
        self.relay = RoundRelay(self.server, self.folder, self.said.put_nowait)

    async def hear(self) -> Command:
        async with asyncio.timeout(WITHIN_S):
            return await self.said.get()

    async def news(self) -> RoundNews:
        said = await self.hear()
        assert isinstance(said, RoundNews)
        return said

    async def plan(self, number: int) -> RoundPlan:
        """Once it is published."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                for plan in (await self.server.rounds(number)).plans:
                    if plan.round == number:
                        return plan

    async def beat(self) -> HeartbeatReply:
        """Training, once there is a plan that has us."""
        epoch = 0
        with contextlib.suppress(NotFound):
            epoch = (await self.server.plan()).epoch
        beat = Heartbeat(
            protocol=PROTOCOL,
            state="training" if epoch else "ready",
            epoch=Epoch(epoch),
            endpoint=Endpoint(host="127.0.0.1", port=4000),
            shape=SHAPE,
            config_digest=config_digest(await self.server.config()),
        )
        return await self.server.heartbeat(beat)

    def reduced(self, plan: RoundPlan, **changes: Any) -> SpanReduced:
        """The span that is ours, combined of nobody's contributions: noise, another for every `changes`."""
        [span] = [span for span in range(len(plan.spans)) if plan.reducer(span) == self.server.worker_id]
        draw = np.random.default_rng([plan.round, span, len(changes)])
        values = draw.normal(size=len(plan.spans[span].bounds)).astype(np.float32)
        data = blob_of(by_name("int8"), values)
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / digest
        path.write_bytes(data)
        fields: dict[str, Any] = {"round": plan.round, "span": span, "term": plan.term(span), "digest": digest}
        report = SpanReport.model_validate(fields | {"size_bytes": len(data), "included": ()} | changes)
        return SpanReduced(report=report, path=path)

    async def delivered(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            await self.relay.drained()

    async def download(self, sha256: str) -> Path | None:
        self.relay.wanted(UpdateWanted(sha256=sha256, size_bytes=1))
        said = await self.hear()
        assert isinstance(said, UpdateHere)
        assert said.sha256 == sha256
        return said.path

    def root(self, plan: RoundPlan) -> RootReport:
        """Of an anchor so far ahead that nobody can say yet whether it is right."""
        participant = plan.of_worker(self.server.worker_id)
        assert participant is not None
        return RootReport(round=ROUNDS, cluster=participant.cluster, rank=0, root="0" * 64)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        try:
            async with asyncio.TaskGroup() as tasks:
                parts = [tasks.create_task(part) for part in self.relay.parts()]
                yield
                for part in parts:
                    part.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def until_it_fails(self) -> None:
        async with asyncio.timeout(WITHIN_S), self.working():
            await asyncio.get_running_loop().create_future()


@dataclass
class TwoClusters:
    """A server with a run of two clusters of one, in rounds of two steps, that two workers have enrolled for."""

    server: Any
    folders: list[Path]
    enrolments: list[Enrolment]


@contextlib.contextmanager
def two_clusters(folder: Path, running_server: Any, *, steps: int) -> Iterator[TwoClusters]:
    (folder / "text.txt").write_text("99 bottles of beer on the wall. " * 400)
    with running_server(folder / "server") as server:
        server.configure(
            steps=steps,
            model={"preset": "tiny"},
            data={"source": "text", "paths": [str(folder / "text.txt")], "seq_len": 16},
            batch={"micro_batch_blocks": 1},
            start={"workers": 2},
            cluster={"policy": "fixed", "size": 1},
            rounds={"steps": 2},
            optimizer={"warmup_steps": 0},
        )
        invite = server.invite(uses=2)
        folders = [folder / "first", folder / "second"]
        enrolments = [asyncio.run(join(f / "identity", invite, f.name, lambda: hardware(folder))) for f in folders]
        yield TwoClusters(server, folders, enrolments)
