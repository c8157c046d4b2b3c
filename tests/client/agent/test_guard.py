"""What the agent adds to the sensors: what its engine held, for a while."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from legion_client.agent.guard import FORGOTTEN_S, Watch
from legion_client.machine.notices import Notice
from legion_client.machine.readings import Readings


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
