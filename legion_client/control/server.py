"""The agent's desk on a socket: windows and commands of the same user ask there.

Whatever a connection does (nothing, nonsense, reading slowly), it holds up neither the agent nor another connection.
"""

import asyncio
import hmac
import logging
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

import legion
from legion.errors import AlreadyRunning, LegionError, ProtocolMismatch, TooManyRequests, Unusable
from legion.errors import Refused as RefusedError
from legion_client.control.accounts import ClaimName, GetAccount, LinkAccount, NewCode, NewPhrase, NewSignIn
from legion_client.control.address import Address, is_stranger
from legion_client.control.desk import Desk
from legion_client.control.instance import sole
from legion_client.control.lines import HELLO_S, REQUEST_BYTES, read_line, send
from legion_client.control.listener import announce, bind, withdraw
from legion_client.control.messages import (
    PROTOCOL,
    REQUESTS,
    Attach,
    ChangeSettings,
    Done,
    Finish,
    Follow,
    GetCurve,
    GetHappenings,
    GetSamples,
    GetSettings,
    GetStatus,
    Happened,
    Happening,
    HappeningsAre,
    Join,
    Leave,
    Pause,
    Quit,
    Refused,
    Request,
    Resume,
    SamplesAre,
    SetMode,
    Show,
    StatusIs,
    Welcome,
)
from legion_client.paths import Home

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 32
IDLE_S = 60.0  # without a request; followers stay as long as they read


@asynccontextmanager
async def serve(home: Home, desk: Desk, *, loopback: bool | None = None) -> AsyncIterator[Address]:
    """For the time of the block, this process is the home's agent and answers at the desk.

    Raises AlreadyRunning when another process is, StorageFailed when the home cannot hold a socket. `loopback` takes a
    port in place of a Unix socket; None: where there are no Unix sockets.
    """
    folder = home.control
    with sole(folder):
        bound = bind(folder) if loopback is None else bind(folder, loopback=loopback)
        counter = _Counter(desk, bound.address)
        try:
            listening = await _listen(bound.socket, counter.begin)
            announce(folder, bound.address)
            try:
                yield bound.address
            finally:
                listening.close()
                await counter.close()
        finally:
            bound.socket.close()
            withdraw(folder, bound.address)


async def _listen(bound: socket.socket, begin: Callable[[StreamReader, StreamWriter], None]) -> asyncio.AbstractServer:
    if bound.family == socket.AF_INET:
        return await asyncio.start_server(begin, sock=bound, limit=REQUEST_BYTES)
    return await asyncio.start_unix_server(begin, sock=bound, limit=REQUEST_BYTES)


class _Counter:
    """Where connections are served: the owner of their tasks, none of which ever raises.

    No task group: that would wrap what ends the agent, and who started it could not tell one error from another.
    """

    def __init__(self, desk: Desk, address: Address) -> None:
        self._desk = desk
        self._address = address
        self._open: set[asyncio.Task[None]] = set()
        self._window: StreamWriter | None = None  # attached, in another process
        self._closed = False

    def begin(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._closed:  # accepted in the same turn of the loop
            writer.close()
            return
        serving = self._turn_away(writer) if len(self._open) >= MOST_CONNECTIONS else self._serve(reader, writer)
        task = asyncio.create_task(serving, name="control connection")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def close(self) -> None:
        self._closed = True
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _turn_away(self, writer: StreamWriter) -> None:
        error = TooManyRequests(
            f"{MOST_CONNECTIONS} windows and commands are connected to this agent", hint="Close one of them."
        )
        await _last_word(writer, error)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await self._greet(reader, writer)
            while True:
                async with asyncio.timeout(IDLE_S):
                    line = await read_line(reader)
                if not line:
                    break
                await self._answer(line, reader, writer)
        except LegionError as error:
            await _last_word(writer, error)
        except (OSError, TimeoutError) as error:
            logger.debug("control connection ends reason=%s", str(error) or type(error).__name__)
        except Exception:
            logger.exception("control connection failed")
        finally:
            _hang_up(writer)

    async def _greet(self, reader: StreamReader, writer: StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        if is_stranger(connection):
            raise RefusedError("this agent belongs to another user", hint="Ask as the user who started it.")
        async with asyncio.timeout(HELLO_S):
            hello = _hello(await read_line(reader))
        if hello.protocol != PROTOCOL:
            raise ProtocolMismatch(
                f"this agent is Legion {legion.__version__} and speaks version {PROTOCOL} of the control protocol, "
                f"the program that asks speaks version {hello.protocol}",
                hint="Restart the agent after an update, so that both are of the same version.",
            )
        if not hmac.compare_digest(hello.token.encode(), self._address.token().encode()):
            raise RefusedError("the program that asks does not know this agent's secret", hint="Restart the program.")
        await send(writer, Welcome(version=legion.__version__, proof=self._address.proof(hello.nonce)))

    async def _answer(self, line: bytes, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            request = REQUESTS.validate_json(line)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]["msg"]
            await send(writer, refusal(Unusable(f"the agent does not understand that request: {problem}")))
            return
        match request:
            case Follow():
                await self._tell_changes(reader, writer)
            case Attach(invite=invite):
                await self._attach(invite, reader, writer)
            case Show():
                await send(writer, await self._shown(request))
            case _:
                await send(writer, await answered(self._desk, request))

    async def _attach(self, invite: str | None, reader: StreamReader, writer: StreamWriter) -> None:
        if self._window is not None and isinstance(await self._shown(Show(invite=invite)), Done):
            raise AlreadyRunning("this agent has a window already", hint="It was raised.")
        self._window = writer
        try:
            await self._tell_changes(reader, writer)
        finally:
            if self._window is writer:
                self._window = None

    async def _shown(self, request: Show) -> BaseModel:
        """By the window that is attached, else by the desk's own."""
        if self._window is not None:
            with suppress(OSError, TimeoutError):  # it died, and its connection ends in a moment
                await send(self._window, request)
                return Done()
        return await answered(self._desk, request)

    async def _tell_changes(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Until the follower goes away; it says nothing more."""
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell(writer), name="control follower")
            with suppress(OSError):
                await reader.read(1)
            telling.cancel()
        raise ConnectionResetError("the follower went away")

    async def _tell(self, writer: StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            async with aclosing(self._desk.follow()) as changes:
                async for change in changes:
                    told = Happened(happening=change) if isinstance(change, Happening) else StatusIs(status=change)
                    await send(writer, told)
        _hang_up(writer)  # ends the reading too


class _AnyHello(BaseModel, extra="ignore"):
    """Of whatever version: it may hold more, and only this is looked at."""

    kind: Literal["hello"]
    protocol: Any = None
    token: str = ""
    nonce: str = ""


def _hello(line: bytes) -> _AnyHello:
    try:
        return _AnyHello.model_validate_json(line)
    except ValidationError as error:
        raise Unusable("the first line on the control socket must be a hello") from error


async def answered(desk: Desk, request: Request) -> BaseModel:
    """The answer to any request but Follow; an error of Legion's, or of the desk's, is one too."""
    try:
        return await _ask(desk, request)
    except LegionError as error:
        return refusal(error)
    except Exception as error:
        logger.exception("control request failed kind=%s", request.kind)
        return refusal(LegionError(f"the agent failed to answer: {type(error).__name__}"))


async def _ask(desk: Desk, request: Request) -> BaseModel:
    match request:
        case GetStatus():
            return StatusIs(status=desk.status())
        case GetSettings():
            return desk.settings()
        case GetHappenings(after=after, most=most):
            return HappeningsAre(happenings=tuple(await desk.happenings(after, most)))
        case GetSamples(since=since, most=most):
            return SamplesAre(samples=tuple(await desk.samples(since, most)))
        case GetCurve(most=most):
            return await desk.curve(most)
        case GetAccount() | ClaimName() | LinkAccount() | NewPhrase() | NewCode() | NewSignIn():
            return await desk.account(request)
        case _:
            await _do(desk, request)
            return Done()


async def _do(desk: Desk, request: Request) -> None:
    match request:
        case Pause(until=until):
            await desk.pause(until)
        case Resume():
            await desk.resume()
        case Finish():
            await desk.finish()
        case SetMode(axis=axis, mode=mode, until=until):
            await desk.mode(axis, mode, until)
        case ChangeSettings(values=values):
            await desk.change(values)
        case Join(invite=invite):
            await desk.join(invite)
        case Leave():
            await desk.leave()
        case Show(invite=invite):
            await desk.show(invite)
        case Quit():
            await desk.quit()


def refusal(error: LegionError) -> Refused:
    return Refused(slug=error.slug, message=str(error), hint=error.hint)


async def _last_word(writer: StreamWriter, error: LegionError) -> None:
    with suppress(OSError, TimeoutError):
        await send(writer, refusal(error))
    _hang_up(writer)


def _hang_up(writer: StreamWriter) -> None:
    """Closing alone would wait for ever for somebody who does not read what is left."""
    if writer.transport.get_write_buffer_size():
        writer.transport.abort()
    writer.close()
