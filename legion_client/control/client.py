"""A window's or a command's end of the control socket."""

import asyncio
import hmac
import secrets
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from pydantic import ValidationError

from legion.errors import AgentNotRunning, LegionError, ProtocolMismatch, Unavailable, by_slug
from legion.errors import Refused as RefusedError
from legion_client.control.address import Address, is_stranger
from legion_client.control.lines import ANSWER_BYTES, HELLO_S, read_line, send
from legion_client.control.messages import (
    ANSWERS,
    PROTOCOL,
    Answer,
    Attach,
    Follow,
    GetStatus,
    Happened,
    Happening,
    Hello,
    Refused,
    Request,
    Show,
    Status,
    StatusIs,
    Welcome,
)
from legion_client.paths import Home

ANSWER_S = 30.0  # joining a server takes longest
AGAIN_S = 0.5  # between attempts to find an agent that went away
LONGEST_AGAIN_S = 5.0
RESTART = "Restart the agent after an update, so that both are of the same version."


@dataclass(frozen=True, slots=True)
class Lost:
    """The agent went away; `error` says how, and the follower looks for it."""

    error: LegionError


class Control:
    """Speaks to the agent of a home. Every request has a connection of its own: there is nothing to keep or close."""

    def __init__(
        self, home: Home, *, shown: Callable[[str | None], None] | None = None, invite: str | None = None
    ) -> None:
        """`shown`: whoever follows is the agent's window, and this is called when a second start wants it, with an
        invite or None. `invite`: what another window of this agent, if there is one, asks about in our place."""
        self._home = home
        self._shown = shown
        self._invite = invite

    async def request(self, request: Request, *, within_s: float = ANSWER_S) -> Answer:
        """The agent's answer. Raises what the agent refused with, AgentNotRunning when there is none, ProtocolMismatch
        when it is of another version, Unavailable when it does not answer in time."""
        try:
            async with asyncio.timeout(within_s), self._connected() as (reader, writer):
                await send(writer, request)
                return await _next_answer(reader)
        except (OSError, TimeoutError) as error:
            raise _silent(error) from error

    async def status(self) -> Status:
        answer = await self.request(GetStatus())
        if not isinstance(answer, StatusIs):
            raise ProtocolMismatch("the agent answered a request for its status with something else")
        return answer.status

    async def follow(self) -> AsyncGenerator[Status | Happening | Lost, None]:
        """The status and every change, for ever: an agent that goes away is told as Lost and looked for again.

        AlreadyRunning, when another window has the place, is told too. Raises what trying again does not help against:
        another version, another user.
        """
        wait_s, told = AGAIN_S, False
        while True:
            try:
                async with aclosing(self.follow_once()) as changes:
                    async for change in changes:
                        wait_s, told = AGAIN_S, False
                        yield change
            except Unavailable as error:
                if not told:
                    yield Lost(error)
                told = True
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, LONGEST_AGAIN_S)

    async def follow_once(self) -> AsyncGenerator[Status | Happening, None]:
        """The status and every change until the agent goes away, which is AgentNotRunning."""
        try:
            async with self._connected() as (reader, writer):
                await send(writer, Follow() if self._shown is None else Attach(invite=self._invite))
                while True:
                    answer = await _next_answer(reader)
                    self._invite = None  # this window has its place, and asks itself
                    if isinstance(answer, StatusIs):
                        yield answer.status
                    elif isinstance(answer, Happened):
                        yield answer.happening
                    elif isinstance(answer, Show) and self._shown is not None:
                        self._shown(answer.invite)
        except (OSError, TimeoutError) as error:
            raise _silent(error) from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
        address = Address.read(self._home.control)
        reader, writer = await _open(address)
        try:
            await _greet(address, reader, writer)
            yield reader, writer
        finally:
            writer.close()


async def _open(address: Address) -> tuple[StreamReader, StreamWriter]:
    try:
        if address.path is not None:
            return await asyncio.open_unix_connection(address.path, limit=ANSWER_BYTES)
        return await asyncio.open_connection("127.0.0.1", address.port, limit=ANSWER_BYTES)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise AgentNotRunning("the agent that ran here ended without a word") from error


async def _greet(address: Address, reader: StreamReader, writer: StreamWriter) -> None:
    """Before anything is asked: who listens is this user's agent, and of this version."""
    if is_stranger(writer.get_extra_info("socket")):
        raise RefusedError("another user's program listens where the agent should")
    nonce = secrets.token_hex(16)
    async with asyncio.timeout(HELLO_S):
        await send(writer, Hello(token=address.token(), nonce=nonce))
        answer = await _next_answer(reader)
    if not isinstance(answer, Welcome) or answer.protocol != PROTOCOL:
        raise ProtocolMismatch("the agent speaks another version of the control protocol", hint=RESTART)
    if not hmac.compare_digest(answer.proof, address.proof(nonce)):
        raise RefusedError("what listens on the agent's port is not the agent", hint="Restart the agent.")


async def _next_answer(reader: StreamReader) -> Answer:
    line = await read_line(reader)
    if not line:
        raise AgentNotRunning("the agent ended while it was asked")
    try:
        answer = ANSWERS.validate_json(line)
    except ValidationError as error:
        raise ProtocolMismatch("the agent answered with what this version does not understand", hint=RESTART) from error
    if isinstance(answer, Refused):
        raise by_slug(answer.slug, answer.message, hint=answer.hint)
    return answer


def _silent(error: OSError) -> LegionError:
    if isinstance(error, ConnectionError):
        return AgentNotRunning("the agent ended while it was asked")
    return Unavailable(
        f"the agent does not answer: {error.strerror or 'it took too long'}",
        hint="See 'legion-client logs'; end its process and start it again if this goes on.",
    )
