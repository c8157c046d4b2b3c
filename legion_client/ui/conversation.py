"""The talk with the agent: follows what it tells, sends what the volunteer asks, and owns the tasks of both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal

from legion.errors import LegionError

if TYPE_CHECKING:  # their models take longer to make than a tray to show
    from pydantic import BaseModel

    from legion_client.control.client import Lost
    from legion_client.control.messages import Happening, Request, Status
    from legion_client.ui.agent import Agent

logger = logging.getLogger(__name__)

Seat = Callable[[], AbstractAsyncContextManager["Agent"]]


class Conversation(QObject):
    """Signals for the widgets. `status` is the newest one, None before the first and while the agent is away."""

    status_changed = Signal(object)
    happened = Signal(object)
    lost = Signal(object)  # LegionError: the agent is away; or could not be started
    refused = Signal(object)  # LegionError: what was asked for could not be done

    def __init__(self) -> None:
        super().__init__()
        self.status: Status | None = None
        self._agent: Agent | None = None
        self._tasks: asyncio.TaskGroup | None = None

    async def serve(self, seat: Seat) -> None:
        """Until cancelled. What the agent cannot be started with is told as `lost`, and the window stays."""
        try:
            async with seat() as agent, asyncio.TaskGroup() as tasks:
                self._agent, self._tasks = agent, tasks
                async for told in agent.follow():
                    self._take(told)
        except* LegionError as group:
            self._lose(first_of(group))
        finally:
            self._agent = self._tasks = None

    def send(self, request: Request, answered: Callable[[BaseModel], None] | None = None) -> None:
        """Ask, and hand the answer on; an error becomes `refused`. Without an agent nothing is asked."""
        if self._tasks is not None and self._agent is not None:
            self._tasks.create_task(self._ask(self._agent, request, answered), name=request.kind)

    async def _ask(self, agent: Agent, request: Request, answered: Callable[[BaseModel], None] | None) -> None:
        try:
            answer = await agent.request(request)
        except LegionError as error:
            logger.warning("request refused kind=%s error=%s", request.kind, error)
            self.refused.emit(error)
        else:
            if answered is not None:
                answered(answer)

    def _take(self, told: Status | Happening | Lost) -> None:
        from legion_client.control.client import Lost  # noqa: PLC0415  with what they are made by, after the tray
        from legion_client.control.messages import Happening, Status  # noqa: PLC0415  the same

        match told:
            case Status():
                self.status = told
                self.status_changed.emit(told)
            case Happening():
                self.happened.emit(told)
            case Lost():
                self._lose(told.error)

    def _lose(self, error: LegionError) -> None:
        self.status = None
        self.lost.emit(error)


def first_of(group: BaseExceptionGroup[LegionError]) -> LegionError:
    found = group.exceptions[0]
    return first_of(found) if isinstance(found, BaseExceptionGroup) else found
