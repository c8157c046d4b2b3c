"""A home's agent as tests have it: with a real server, until a block is left."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from legion.ids import Epoch
from legion.reports import StepRecord
from legion_client.agent import life
from legion_client.agent.desk import AgentDesk
from legion_client.agent.host import Host
from legion_client.agent.outbox import Outbox, Record
from legion_client.agent.supervisor import COMMAND
from legion_client.control.messages import Status
from legion_client.paths import Home
from legion_client.settings import Settings

RunningServer = Any  # see conftest
WAIT_S = 90.0  # for anything that must come, on a machine with other things to do


@asynccontextmanager
async def hosted(
    run: RunningServer, folder: Path, *, polite: bool = False, engine_command: Sequence[str] = COMMAND
) -> AsyncIterator[tuple[Host, AgentDesk]]:
    """A host that takes part, until the block is left."""
    host = Host(Home(folder), Settings(name="tester"), polite=polite, engine_command=engine_command)
    await host.enrol(run.invite())
    async with running(host) as desk:
        yield host, desk


@asynccontextmanager
async def without_a_run(folder: Path, *, polite: bool = True) -> AsyncIterator[tuple[Host, AgentDesk]]:
    """A host that has joined nothing, until the block is left."""
    host = Host(Home(folder), Settings(name="tester"), polite=polite)
    async with running(host) as desk:
        yield host, desk


@asynccontextmanager
async def running(host: Host) -> AsyncIterator[AgentDesk]:
    run = asyncio.create_task(host.run(stays=True))
    try:
        async with asyncio.timeout(WAIT_S):
            yield AgentDesk(host)
    finally:
        host.quit("the test is over")
        await run


async def reaches(host: Host, *phases: life.Phase) -> None:
    if host.agent is None:
        await seen(AgentDesk(host), lambda _: host.agent is not None)
    assert host.agent is not None
    await host.agent.until(*phases)


async def seen(desk: AgentDesk, test: Any) -> Status:
    """The first status for which `test` holds."""
    changes = desk.follow()
    try:
        async for change in changes:
            if isinstance(change, Status) and test(change):
                return change
    finally:
        await changes.aclose()
    raise AssertionError("the agent tells nothing more")


async def trains(host: Host) -> int:
    """Returns once its engine has made another step; the steps so far."""
    await reaches(host, life.Phase.TRAINING)
    assert host.agent is not None
    outbox, stepped = host.agent._outbox, asyncio.Event()

    def add_record(epoch: Epoch, record: Record) -> None:
        Outbox.add_record(outbox, epoch, record)
        if isinstance(record, StepRecord):
            stepped.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "add_record", add_record)
        await stepped.wait()
    record = host.agent.attempt.record
    assert record is not None
    return record.step
