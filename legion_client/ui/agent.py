"""The one way in which the desktop app reaches the agent, in its own process or over the control socket."""

from collections.abc import AsyncIterator
from typing import Protocol

from pydantic import BaseModel

from legion_client.control.client import Lost
from legion_client.control.messages import Answer, Happening, Request, Status


class Agent(Protocol):
    """`control.client.Control` is one; `near.Near` makes one of a desk in this process."""

    async def request(self, request: Request) -> Answer | BaseModel:
        """The answer; a LegionError says that nothing has changed."""

    def follow(self) -> AsyncIterator[Status | Happening | Lost]:
        """The status now, then every change and happening."""
