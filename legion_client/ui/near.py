"""An agent in the window's own process. Apart from the rest, because a start need not wait for it."""

from collections.abc import AsyncIterator

from pydantic import BaseModel

from legion.errors import LegionError, by_slug
from legion_client.control.client import Lost
from legion_client.control.desk import Desk
from legion_client.control.messages import Happening, Refused, Request, Status
from legion_client.control.server import answered


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


def refused(answer: Refused) -> LegionError:
    return by_slug(answer.slug, answer.message, hint=answer.hint)
