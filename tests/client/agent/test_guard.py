"""What the agent adds to the sensors: what its engine held, for a while."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from legion_client.agent import guard as module
from legion_client.agent.guard import FORGOTTEN_S, Guard, Watch
from legion_client.machine.notices import Notice
from legion_client.machine.policy import Decision, Pause, Run
from legion_client.machine.readings import Readings
from legion_client.settings import Settings


@dataclass
class Computer:
    """Time and an engine as the test says."""

    now: float = 0.0
    engine: int | None = None
    sensed: Readings = field(default_factory=Readings)

    async def read(self) -> Readings:
        return self.sensed

    async def notices(self) -> AsyncIterator[Notice]:
        for notice in ():
            yield notice

    def watch(self) -> Watch:
        return Watch(self.read, self.notices, lambda: self.engine, lambda: self.now)


@pytest.mark.parametrize("sensed", [Readings(), Readings(engine_memory_bytes=123)])
def test_what_an_engine_held_is_known_for_a_while(sensed: Readings) -> None:
    """Else one that once took too much would never be tried again."""
    computer = Computer(engine=os.getpid(), sensed=sensed)
    watch = computer.watch()

    def held() -> int | None:
        return asyncio.run(watch.read()).engine_memory_bytes

    at_work = held()
    assert at_work is not None
    assert at_work > 0
    computer.engine = None
    computer.now = FORGOTTEN_S
    assert held() is not None
    computer.now += 1
    assert held() is None
    computer.engine = os.getpid()
    assert held() is not None


@pytest.mark.parametrize(
    ("paused", "at_rest", "slow"), [(False, False, False), (False, True, True), (True, False, True), (True, True, True)]
)
async def test_it_looks_less_often_while_nothing_is_to_be_stopped(
    monkeypatch: pytest.MonkeyPatch, *, paused: bool, at_rest: bool, slow: bool
) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.0)
    monkeypatch.setattr(module, "WAITING_TICK_S", 3600.0)
    monkeypatch.setattr(module, "PAUSED_TICK_S", 3600.0)
    settings = Settings()
    modes = settings.modes.model_copy(update={"paused": paused})
    settings = settings.model_copy(update={"modes": modes})
    decisions: list[Decision] = []
    once, twice = asyncio.Event(), asyncio.Event()

    async def read() -> Readings:
        return Readings()

    def decided(decision: Decision, _: Readings) -> None:
        decisions.append(decision)
        once.set()
        if len(decisions) == 2:
            twice.set()

    guard = Guard(read, lambda: settings, list, decided, at_rest=lambda: at_rest)
    watching = asyncio.create_task(guard.watch())
    if slow:
        await once.wait()
        await asyncio.sleep(0)
        assert len(decisions) == 1
        guard.look_again()  # and what the volunteer does is heard at once
    await twice.wait()
    watching.cancel()
    assert all(isinstance(decision, Pause if paused else Run) for decision in decisions)
