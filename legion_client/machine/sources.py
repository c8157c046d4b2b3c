"""What each operating system gives, in one shape."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from legion_client.machine.notices import Notice
from legion_client.machine.power import Power
from legion_client.machine.screen import ScreenUse
from legion_client.machine.sensing import Probe, Sensor

T = TypeVar("T")


async def _nothing_to_close() -> None:
    pass


class Unknown(Generic[T]):
    """What a system does not tell."""

    def read(self) -> T | None:
        return None


@dataclass(frozen=True, slots=True)
class Sources:
    """Of one operating system. `notices` runs for ever and is to be iterated once; `close` frees what was opened."""

    idle: Sensor[float] | Probe[float]
    power: Probe[Power]
    heat: Probe[float]
    metered: Sensor[bool] | Probe[bool]
    screen: Sensor[ScreenUse] | Probe[ScreenUse]
    game: Sensor[bool] | Probe[bool]
    notices: Callable[[], AsyncIterator[Notice]]
    close: Callable[[], Awaitable[None]] = _nothing_to_close
