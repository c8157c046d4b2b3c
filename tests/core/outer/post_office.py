"""A courier with everything around it in memory: links to workers, the coordinator, storage. In virtual time."""

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from legion.codec.registry import by_name
from legion.comm.api import Usage
from legion.comm.bridge import Bridge
from legion.config import RoundsConfig
from legion.errors import (
    NotFound,
    Unavailable,
)
from legion.ids import ClusterId, Rank, WorkerId
from legion.layout import Layout
from legion.messages import Member
from legion.outer.arriving import Limits, Room
from legion.outer.blobs import BlobFolder
from legion.outer.courier import Courier
from legion.outer.member import Outgoing, Place
from legion.rounds import PartKey, ResidualKey, RootReport, RoundPlan, RoundRecord, SpanReport, UpdateKey
from tests.core.outer.small_rounds import RUN, SHARES, UNITS, fragments_of, part_key, plan_of, record_of, worker_of
from tests.core.outer.virtual_time import in_virtual_time, settled

A, B, C = sorted(SHARES)
FIRST, SECOND, THIRD = worker_of(C, 0), worker_of(B, 0), worker_of(A, 0)  # reducers of every span, by term
ROUNDS = 9
LONG_S = 500.0
Test = Callable[["Post"], Awaitable[None]]


@dataclass
class MemoryLinks:
    """See `courier.Links`. What is asked of a worker is answered from its lists, in order; the last answer stays."""

    sent: list[tuple[float, WorkerId, PartKey, bytes]] = field(default_factory=list)
    fetched: list[tuple[WorkerId, str]] = field(default_factory=list)
    of_parts: dict[WorkerId, list[Exception | None]] = field(default_factory=dict)
    of_blobs: dict[WorkerId, list[Exception | bytes | tuple[bytes, Exception]]] = field(default_factory=dict)
    hanging: set[WorkerId] = field(default_factory=set)
    given_up: list[WorkerId] = field(default_factory=list)
    residuals: list[tuple[WorkerId, ResidualKey, bytes]] = field(default_factory=list)
    awaited: list[tuple[WorkerId, UpdateKey]] = field(default_factory=list)
    trickling: set[WorkerId] = field(default_factory=set)  # who announces an update, and never ends it
    to_come: dict[UpdateKey, asyncio.Future[tuple[str, bytes]]] = field(default_factory=dict)

    async def send_part(self, member: Member, key: PartKey, data: bytes) -> None:
        worker = member.worker_id
        self.sent.append((asyncio.get_running_loop().time(), worker, key, data))
        if worker in self.hanging:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.given_up.append(worker)
        answer = _next(self.of_parts.get(worker, [None]))
        if answer is not None:
            raise answer

    async def send_residual(self, member: Member, key: ResidualKey, data: bytes) -> None:
        worker = member.worker_id
        self.residuals.append((worker, key, data))
        if worker in self.hanging:
            await asyncio.get_running_loop().create_future()
        answer = _next(self.of_parts.get(worker, [None]))
        if answer is not None:
            raise answer

    async def fetch_blob(self, member: Member, sha256: str, size_bytes: int, into: bytearray) -> None:
        self.fetched.append((member.worker_id, sha256))
        answer = _next(self.of_blobs.get(member.worker_id, [NotFound("no update is here")]))
        if isinstance(answer, tuple):  # so much comes, and then an error
            start, answer = answer
            into += start
        if isinstance(answer, Exception):
            raise answer
        into += answer

    async def await_update(self, member: Member, key: UpdateKey, most_bytes: int, room: Room) -> tuple[str, bytes]:
        self.awaited.append((member.worker_id, key))
        answer = self.to_come.get(key) or asyncio.get_running_loop().create_future()
        sha256, data = await asyncio.shield(answer)
        async with room(len(data)):
            if member.worker_id in self.trickling:
                await asyncio.get_running_loop().create_future()
            return sha256, data


def _next(answers: list[Any]) -> Any:
    return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class MemoryControl:
    """See `courier.Control`."""

    reports: list[SpanReport] = field(default_factory=list)
    roots: list[RootReport] = field(default_factory=list)
    storage: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[float, str]] = field(default_factory=list)

    async def reduced(self, report: SpanReport, blobs: BlobFolder) -> None:
        assert blobs.has(report.digest)
        self.reports.append(report)

    def applied(self, report: RootReport) -> None:
        self.roots.append(report)

    async def download(self, sha256: str, size_bytes: int) -> bytes:
        self.asked.append((asyncio.get_running_loop().time(), sha256))
        if sha256 not in self.storage:
            raise Unavailable(f"update {sha256[:12]} is not in storage")
        return self.storage[sha256]


@dataclass
class Post:
    """A courier of rank 0 of a cluster, and everything around it."""

    courier: Courier
    links: MemoryLinks
    control: MemoryControl
    folder: Path
    cluster: ClusterId

    def send(self, plan: RoundPlan, span: int = 0) -> PartKey:
        """A part of our slice; as the compute thread would."""
        size = sum(len(f.flat) for f in fragments_of(plan, span, self.cluster, 0))
        data = bytes(by_name("int8").encode(np.linspace(-1, 1, size, dtype=np.float32)))
        key = part_key(plan, span, self.cluster, 0, by_name("int8"), data)
        self.courier.send([Outgoing(key, data)])
        return key

    @property
    def sent_to(self) -> list[WorkerId]:
        return [worker for _, worker, _, _ in self.links.sent]

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    async def moved(self, anchor: int) -> None:
        """The compute thread has applied everything up to this anchor."""
        self.courier.applied(lambda: RootReport(round=anchor, cluster=self.cluster, rank=0, root="0" * 64))
        await settled()


@contextlib.asynccontextmanager
async def post_office(
    folder: Path,
    cluster: ClusterId = A,
    anchor: int = 0,
    layout: Layout | None = None,
    limits: Limits = Limits(),
    **config: Any,
) -> AsyncIterator[Post]:
    links, control = MemoryLinks(), MemoryControl()
    layout = layout or Layout(UNITS, SHARES[cluster])
    place = Place(RUN, cluster, Rank(0), layout, ROUNDS)
    settings = RoundsConfig.model_validate(
        {"codec": "int8", "update_codec": "none", "mean_over": "participants"} | config
    )
    bridge = Bridge(asyncio.get_running_loop(), Usage())
    blobs = BlobFolder(folder)
    courier = Courier(worker_of(cluster, 0), settings, place, anchor, links, control, blobs, bridge, limits)
    async with courier.working():
        yield Post(courier, links, control, folder, cluster)
    await settled()  # who waited for something of ours hears that we have left
    assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks are left"


def with_post(tmp_path: Path, test: Test, **options: Any) -> None:
    async def run() -> None:
        async with post_office(tmp_path / "updates", **options) as post:
            await test(post)

    in_virtual_time(run())


def blob(number: int, span: int) -> bytes:
    return f"update of span {span} of round {number}".encode()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def record(number: int, *, reducer_term: int = 0, same: bool = False) -> RoundRecord:
    """Of a round whose updates are `blob`; `same`: in every round the same ones."""
    plan = plan_of(number)
    reports = [
        SpanReport(round=number, span=span, term=reducer_term, digest=sha(data), size_bytes=len(data), included=())
        for span in range(len(plan.spans))
        for data in [blob(0 if same else number, span)]
    ]
    return record_of(plan, reports)


def store(post: Post, *records: RoundRecord) -> None:
    """Their updates are in storage."""
    for number, span in itertools.product(range(ROUNDS), range(2)):
        data = blob(number, span)
        if any(span.digest == sha(data) for record in records for span in record.spans):
            post.control.storage[sha(data)] = data


def raised(plan: RoundPlan, *terms: int) -> RoundPlan:
    return plan.model_copy(update={"terms": terms, "revision": plan.revision + 1})


async def arrived(post: Post, number: int = 0) -> None:
    post.courier.plan_arrived(plan_of(number))
    post.courier.plan_arrived(plan_of(number + 1))
    post.courier.record_arrived(record(number))
    await settled()
