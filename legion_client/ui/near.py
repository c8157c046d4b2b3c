"""An agent in the window's own process. Apart from the rest, because a start need not wait for it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pydantic import BaseModel

from legion.errors import LegionError, by_slug
from legion_client.agent.desk import AgentDesk
from legion_client.agent.enrolment import Enrolment
from legion_client.agent.host import Host
from legion_client.control.client import Lost
from legion_client.control.desk import Desk
from legion_client.control.messages import Happening, Refused, Request, Status
from legion_client.control.server import answered, serve
from legion_client.paths import Home
from legion_client.settings import Settings

logger = logging.getLogger(__name__)


class Near:
    """An agent in this process, asked with the same messages as one behind a socket."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def request(self, request: Request) -> BaseModel:
        answer = await answered(self._desk, request)
        if isinstance(answer, Refused):
            raise refused(answer)
        return answer

    def follow(self) -> AsyncIterator[Status | Happening | Lost]:
        return self._desk.follow()


@asynccontextmanager
async def hosted(
    home: Home, settings: Callable[[], Settings], show: Callable[[str | None], None], keep_log: Callable[[], None]
) -> AsyncIterator[Near]:
    """An agent in this process for the time of the block; it stays between runs and is ended in good order.

    `show`: see `AgentDesk`. `keep_log` is called first, and here: a home that takes nothing is told of in the window.
    """
    keep_log()
    host = Host(home, settings())
    host.enrolment = Enrolment.load(home.identity)
    desk = AgentDesk(host, show)
    async with serve(home, desk), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(_agent(host), name="agent")
        try:
            yield Near(desk)
        finally:
            host.quit("the window's program ends")
            await asyncio.wait({running})  # a group that is left with an error would not wait for its good end


async def _agent(host: Host) -> None:
    """Its failure ends the block above, so that the window says so and does not wait for news."""
    try:
        await host.run(stays=True)
    except LegionError:
        raise
    except Exception as error:  # the top of a task: logged, and the volunteer is told
        logger.exception("the agent failed")
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise LegionError(
            f"Legion failed and trains no more: {type(first).__name__}: {first}",
            hint="Quit it and start it again; the page Logs has more for a bug report.",
        ) from error


def refused(answer: Refused) -> LegionError:
    return by_slug(answer.slug, answer.message, hint=answer.hint)
