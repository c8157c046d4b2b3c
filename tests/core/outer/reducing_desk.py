"""Reducing by itself, in virtual time, and parts for it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from legion.codec.api import Floats
from legion.codec.registry import by_name
from legion.comm.waiting import Changes
from legion.config import RoundsConfig
from legion.ids import ClusterId, WorkerId
from legion.outer.reducing import Reducing
from legion.outer.tally import Tally
from legion.rounds import PartKey, RootReport, RoundPlan, SpanReport
from tests.core.outer.small_rounds import SHARES, fragments_of, part_key, worker_of
from tests.core.outer.virtual_time import in_virtual_time, settled

A, B, C = sorted(SHARES)
ME = worker_of(C, 0)  # the reducer of every span in term 0
GRACE_S = 5.0
Test = Callable[["Desk"], Awaitable[None]]


@dataclass
class Desk:
    """Reducing by itself, and what it has finished."""

    changes: Changes
    reducing: Reducing = field(init=False)
    tally: Tally = field(default_factory=Tally)
    finished: list[tuple[float, SpanReport, bytes]] = field(default_factory=list)
    failure: Exception | None = None

    async def finish(self, report: SpanReport, blob: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.finished.append((asyncio.get_running_loop().time(), report, blob))

    async def contribute(
        self, plan: RoundPlan, *clusters: ClusterId, span: int = 0, value: float = 1.0, codec: str = "none"
    ) -> None:
        """Whole contributions, all parts at once."""
        parts = [part for cluster in clusters for part in parts_of(plan, cluster, span, value, codec)]
        await asyncio.gather(*(self.reducing.take_part(*part) for part in parts))
        await settled()

    @property
    def told(self) -> dict[str, int]:
        """What was counted where no report tells of it."""
        return self.tally.told_with(RootReport(round=0, cluster=A, rank=0, root="0" * 64)).refused

    @property
    def reports(self) -> list[SpanReport]:
        return [report for _, report, _ in self.finished]

    @property
    def included(self) -> list[list[ClusterId]]:
        return [[inclusion.cluster for inclusion in report.included] for report in self.reports]


def parts_of(
    plan: RoundPlan, cluster: ClusterId, span: int = 0, value: float = 1.0, codec: str = "none"
) -> list[tuple[WorkerId, PartKey, bytes]]:
    found = []
    for rank in range(len(SHARES[cluster])):
        size = sum(len(fragment.flat) for fragment in fragments_of(plan, span, cluster, rank))
        if size:
            values: Floats = np.linspace(0.1, value, size, dtype=np.float32)
            data = bytes(by_name(codec).encode(values))
            key = part_key(plan, span, cluster, rank, by_name(codec), data)
            found.append((worker_of(cluster, rank), key, data))
    return found


def at_a_desk(test: Test, **config: Any) -> None:
    settings = RoundsConfig.model_validate(
        {"codec": "none", "update_codec": "none", "mean_over": "participants", "grace_s": GRACE_S, "quorum": 0.6}
        | config
    )

    async def run() -> None:
        desk, tasks = Desk(Changes()), asyncio.TaskGroup()
        started: list[asyncio.Task[None]] = []

        def spawn(work: Coroutine[Any, Any, None], name: str) -> None:
            started.append(tasks.create_task(work, name=name))

        clock = asyncio.get_running_loop().time
        desk.reducing = Reducing(ME, settings, desk.changes, spawn, desk.finish, clock, desk.tally)
        async with tasks:
            await test(desk)
            for task in started:
                task.cancel()

    in_virtual_time(run())


def mine(plan: RoundPlan, *spans: int) -> RoundPlan:
    """Of the plan's two spans these are ours; the others are in a later term, somebody else's."""
    terms = tuple(0 if span in spans else 1 for span in range(len(plan.spans)))
    return plan.model_copy(update={"terms": terms})
