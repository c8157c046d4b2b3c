"""What the control socket needs of an agent: one method for every request."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from legion_client.control.accounts import AccountAnswer, AccountRequest
from legion_client.control.messages import Axis, CurveIs, Happening, Mode, Sample, SettingsAre, Status


class Desk(Protocol):
    """An agent at whose desk windows and commands ask. A LegionError says that nothing has changed."""

    def status(self) -> Status:
        """As it is now; cheap, it is asked for with every change."""

    def follow(self) -> AsyncGenerator[Status | Happening, None]:
        """The status now, then changes as they come; a follower that is slow gets the newest status, not every one.

        Every call is a follower of its own, until its iterator is closed.
        """

    async def pause(self, until: float | None) -> None: ...

    async def resume(self) -> None: ...

    async def finish(self) -> None: ...

    async def mode(self, axis: Axis, mode: Mode, until: float | None) -> None: ...

    def settings(self) -> SettingsAre: ...

    async def change(self, values: Mapping[str, Any]) -> None:
        """All of them or none; None takes a value back to its default."""

    async def join(self, invite: str) -> None: ...

    async def leave(self) -> None: ...

    async def happenings(self, after: int, most: int) -> Sequence[Happening]: ...

    async def samples(self, since: float, most: int) -> Sequence[Sample]: ...

    async def curve(self, most: int) -> CurveIs:
        """The run's loss so far, as the server tells; empty without a run."""

    async def account(self, request: AccountRequest) -> AccountAnswer:
        """As the server answers; Unusable without one."""

    async def show(self, invite: str | None) -> None:
        """Raise the window, with a question about the invite if there is one. Refused by an agent without a window."""

    async def quit(self) -> None:
        """Starts to end the agent, as SIGTERM does; the answer is sent before it is gone."""
