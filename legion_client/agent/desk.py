"""The agent's desk: what windows and commands ask, done with a Host. See `control.desk.Desk`."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import legion
from legion.errors import Unusable
from legion.identity import Invite
from legion_client.agent.asked import ask_account
from legion_client.agent.face import look
from legion_client.agent.host import Host
from legion_client.agent.life import Phase
from legion_client.control.accounts import AccountAnswer, AccountRequest
from legion_client.control.messages import (
    Axis,
    CurveIs,
    DeviceNow,
    Happening,
    Mode,
    ModeNow,
    Sample,
    SettingsAre,
    Status,
    Why,
)
from legion_client.machine.hardware import Computing
from legion_client.machine.reasons import Reason, why
from legion_client.settings import change, read, values

UNKNOWN = frozenset((Reason.IDLE_UNKNOWN, Reason.USE_UNKNOWN))
AXES: tuple[Axis, ...] = ("cpu", "gpu", "network")


class AgentDesk:
    """`show`: raises the window, where there is one."""

    def __init__(self, host: Host, show: Callable[[str | None], None] | None = None) -> None:
        self._host = host
        self._show = show

    def status(self) -> Status:
        host = self._host
        agent = host.agent
        reasons = self._reasons()
        seen = look(
            agent.state if agent else None,
            reasons,
            rests=host.resting,
            away=agent.away if agent else host.trouble,
            run=host.standing.run,
        )
        progress = agent.attempt.progress(agent.state.phase) if agent and not host.resting and not agent.away else None
        return Status(
            version=legion.__version__,
            face=seen.face,
            headline=seen.headline,
            headline_said=seen.said,
            reasons=reasons,
            worker_id=host.enrolment.worker_id if host.enrolment else None,
            server=urlsplit(host.enrolment.base_url).netloc if host.enrolment else None,
            name=host.settings.name,
            modes={axis: self._mode(axis) for axis in AXES},
            finishing=host.finishing,
            tokens_per_s=host.tokens_per_s,
            run=host.standing.run if agent else None,
            contribution=host.standing.contribution,
            devices=self._devices(),
            progress=progress.phrase if progress else "",
            progress_share=progress.share if progress else None,
        )

    def follow(self) -> AsyncGenerator[Status | Happening, None]:
        return self._host.teller.follow(self.status)

    async def pause(self, until: float | None) -> None:
        moment = None if until is None else datetime.fromtimestamp(until, UTC)
        self._host.steer({"modes.paused": True, "modes.paused_until": moment})

    async def resume(self) -> None:
        self._host.resume()

    async def finish(self) -> None:
        self._host.finish()

    async def mode(self, axis: Axis, mode: Mode, until: float | None) -> None:
        moment = None if until is None else datetime.fromtimestamp(until, UTC)
        self._host.steer({f"modes.{axis}": mode, f"modes.{axis}_until": moment})

    def settings(self) -> SettingsAre:
        file = read(self._host.home.settings)
        return SettingsAre(values=values(file.settings), chosen=file.chosen)

    async def change(self, values: Mapping[str, Any]) -> None:
        self._change(values)

    async def join(self, invite: str) -> None:
        await self._host.join(Invite.parse(invite))

    async def leave(self) -> None:
        await self._host.leave()

    async def happenings(self, after: int, most: int) -> Sequence[Happening]:
        return self._host.journal.after(after, most)

    async def samples(self, since: float, most: int) -> Sequence[Sample]:
        return self._host.samples.since(since, most)

    async def curve(self, most: int) -> CurveIs:
        return await self._host.standing.curve(most)

    async def account(self, request: AccountRequest) -> AccountAnswer:
        return await ask_account(self._host.enrolment, request)

    async def show(self, invite: str | None) -> None:
        if self._show is None:
            raise Unusable("this agent has no window", hint="Start 'legion-client': its window attaches to the agent.")
        self._show(invite)

    async def quit(self) -> None:
        self._host.quit("a window or command asked")

    def _change(self, values: Mapping[str, Any]) -> None:
        change(self._host.home.settings, values)
        self._host.look_again()

    def _reasons(self) -> tuple[Why, ...]:
        decision = self._host.decision
        if decision is None:
            return ()
        # Where nobody shares the computer, what the sensors do not know is no news.
        return tuple(why(one) for one in decision.reasons if self._host.polite or one.reason not in UNKNOWN)

    def _mode(self, axis: Axis) -> ModeNow:
        modes = self._host.file.settings.modes
        until: datetime | None = getattr(modes, f"{axis}_until")
        if until is not None and until <= datetime.now(UTC):
            return ModeNow()
        return ModeNow(mode=getattr(modes, axis), until=until.timestamp() if until else None)

    def _devices(self) -> tuple[DeviceNow, ...]:
        host, engine = self._host, None
        if host.agent is not None and (listening := host.agent.attempt.listening) is not None:
            engine = Computing(listening.device, host.cards, host.agent.state.phase is Phase.TRAINING)
        reasons = host.decision.reasons if host.decision is not None else ()
        return host.equipment.now(reasons, host.rules, engine)
