"""A desk with a little state of its own, for a real socket to serve."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from legion.errors import Refused, Unusable
from legion_client.control.messages import (
    Axis,
    Happening,
    Mode,
    ModeNow,
    Sample,
    SettingsAre,
    Status,
)

WAITING = Status(version="1", face="waiting", headline="Waiting for a run")


@dataclass
class FrontDesk:
    """Remembers what it was asked for; every change wakes whoever follows."""

    now: Status = WAITING
    chosen: dict[str, Any] = field(default_factory=dict)
    invites: list[str] = field(default_factory=list)
    shown: list[str | None] = field(default_factory=list)
    past: list[Happening] = field(default_factory=list)
    followers: int = 0
    has_window: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def status(self) -> Status:
        return self.now

    def becomes(self, **change: Any) -> None:
        self.now = self.now.model_copy(update=change)
        self._wake()

    def happens(self, sentence: str) -> None:
        self.past.append(Happening(number=len(self.past) + 1, at=1.0, kind="test", sentence=sentence))
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def follow(self) -> AsyncGenerator[Status | Happening, None]:
        self.followers += 1
        self._wake()
        told: Status | None = None
        heard = len(self.past)
        try:
            while True:
                moved = self._moved
                if self.now != told:
                    told = self.now
                    yield told
                while heard < len(self.past):
                    heard += 1
                    yield self.past[heard - 1]
                if moved is self._moved:
                    await moved.wait()
        finally:
            self.followers -= 1
            self._wake()

    async def until_followers(self, count: int) -> None:
        while self.followers != count:
            await self._moved.wait()

    async def pause(self, until: float | None) -> None:
        self.becomes(face="paused", headline="Paused by you" if until is None else f"Paused until {until:.0f}")

    async def resume(self) -> None:
        self.becomes(face="waiting", headline="Waiting for a run")

    async def finish(self) -> None:
        self.becomes(finishing=True)

    async def mode(self, axis: Axis, mode: Mode, until: float | None) -> None:
        self.becomes(modes=self.now.modes | {axis: ModeNow(mode=mode, until=until)})

    def settings(self) -> SettingsAre:
        return SettingsAre(values={"name": "attic", "listen_port": 0} | self.chosen, chosen=tuple(self.chosen))

    async def change(self, values: Mapping[str, Any]) -> None:
        if "colour" in values:
            raise Unusable("there is no setting 'colour'", hint="See 'legion-client settings list'.")
        if "bug" in values:
            raise KeyError("bug")
        self.chosen |= values

    async def join(self, invite: str) -> None:
        self.invites.append(invite)
        self.becomes(server="127.0.0.1:1")

    async def leave(self) -> None:
        self.becomes(server=None)

    async def happenings(self, after: int, most: int) -> Sequence[Happening]:
        return [happening for happening in self.past if happening.number > after][-most:]

    async def samples(self, since: float, most: int) -> Sequence[Sample]:
        return [Sample(at=since + number) for number in range(most)]

    async def show(self, invite: str | None) -> None:
        if not self.has_window:
            raise Refused("this agent has no window")
        self.shown.append(invite)
        self.becomes(headline=f"Shown: {invite}")

    async def quit(self) -> None:
        self.ended.set()
