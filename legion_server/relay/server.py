"""The relay at work: one port, on which the name in a ClientHello says what a connection is for.

A worker's TLS goes through untouched. A control connection is spliced too, to the relay's own TLS server over a pair of
sockets: so all connections are read in one place, and nothing that was read has to be put back.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from legion.comm.bucket import Valve
from legion.comm.splice import BUFFER_BYTES, Ends, splice
from legion.ids import RelayId, WorkerId
from legion.relaying import (
    HELLO_S,
    INVITATION_S,
    SILENT_S,
    Dismissed,
    Invitation,
    Welcome,
    new_nonce,
    nonce_of,
    relay_name,
    worker_of,
)
from legion_server.relay import metrics
from legion_server.relay.control import Control
from legion_server.relay.hello import MOST_BYTES, Hello, Malformed, Named, Unfinished, parse
from legion_server.relay.routes import Refusal, Routes

logger = logging.getLogger(__name__)

# A fatal alert, "unrecognized name" (RFC 6066, 3): the caller's TLS library says it in its own words.
NOBODY_HERE = b"\x15\x03\x03\x00\x02\x02\x70"
LAST_WORD_S = 1.0  # for the other side to take it
REVOKED = "your access was taken back by the operator"
REPLACED = "a program has registered here with the same key from {source}"
NO_WORKER = "only workers of this run register here"

Admit = Callable[[WorkerId], Awaitable[str | None]]  # why a worker may not, or None


@dataclass(slots=True, eq=False)
class _Caller:
    """Waits for a worker to answer, then for the session to end."""

    worker: WorkerId
    source: str
    data: bytes  # what it has sent so far
    ends: Ends
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class _Connection:
    """Half-open until `opened`."""

    def __init__(self, routes: Routes, source: str, ends: Ends) -> None:
        self.source, self.ends = source, ends
        self._routes: Routes | None = routes

    def opened(self) -> None:
        """It counts for something else now, or is over."""
        if self._routes is not None:
            self._routes.depart(self.source)
            self._routes = None


class Relay:
    """`serve` once."""

    def __init__(self, relay_id: RelayId, context: ssl.SSLContext, routes: Routes, admit: Admit) -> None:
        """`context`: shows the relay's certificate and wants a worker's. `admit`: asks whether a worker may."""
        self.routes = routes
        self._name = relay_name(relay_id)
        self._context = context
        self._admit = admit
        self._controls: dict[int, Control] = {}  # by number of their registration
        self._callers: dict[str, _Caller] = {}  # by nonce
        self._sessions: dict[_Caller, Ends] = {}  # with the worker's end
        self._line = Valve()
        self._line.limit(routes.limits.bytes_per_s)
        self._lines: dict[WorkerId, Valve] = {}

    @property
    def carried_bytes(self) -> int:
        """Both directions together, each byte once."""
        return self._line.passed_bytes

    async def serve(self, listener: socket.socket) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    connection, address = await loop.sock_accept(listener)
                except OSError as error:
                    # Out of file descriptors, or a peer that is gone already: the listener itself is fine.
                    logger.warning("connection not accepted reason=%s", error.strerror)
                    await asyncio.sleep(0.1)
                    continue
                source = str(address[0])
                if self.routes.arrive(source) is not None:
                    connection.close()
                    continue
                tasks.create_task(self._receive(connection, source))

    def dismiss(self, workers: Iterable[WorkerId]) -> None:
        """The coordinator has taken their access back: nothing of theirs goes on."""
        seats = dict(self.routes.seats)
        for worker in self.routes.revoke(workers):
            logger.warning("worker dismissed worker=%s reason=revoked", worker)
            self._controls[seats[worker].number].dismiss(Dismissed(reason=REVOKED))
            for caller, answer in self._sessions.items():
                if caller.worker == worker:
                    caller.ends.abort()
                    answer.abort()

    # A connection, of whatever kind.

    async def _receive(self, accepted: socket.socket, source: str) -> None:
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self.routes, source, await streams(accepted))
        except OSError as error:  # it has gone already
            logger.debug("connection lost source=%s reason=%s", source, error)
            self.routes.depart(source)
            accepted.close()
            return
        try:
            hello, data = await self._hello(connection)
            if hello is not None:
                await self._route(hello, data, connection)
        except OSError as error:
            logger.debug("connection lost source=%s reason=%s", source, error)
        except Exception:  # anybody may have made it: the others go on
            logger.exception("connection failed source=%s", source)
        finally:
            connection.opened()
            connection.ends.abort()

    async def _hello(self, connection: _Connection) -> tuple[Hello | None, bytes]:
        try:
            async with asyncio.timeout(HELLO_S):
                return await _read_hello(connection.ends.reader)
        except TimeoutError:
            self._refused("slow_hello", connection.source, f"no whole hello within {HELLO_S:g} s")
            return None, b""

    async def _route(self, hello: Hello, data: bytes, connection: _Connection) -> None:
        if data.startswith(metrics.REQUEST) and ip_address(connection.source.partition("%")[0]).is_loopback:
            connection.ends.writer.write(metrics.answer(self.routes, self.carried_bytes))
            await connection.ends.close()
        elif not isinstance(hello, Named):
            why = hello.why if isinstance(hello, Malformed) else "it ended early"
            self._refused("malformed_hello", connection.source, why)
        elif hello.name == self._name:
            await self._attend(data, connection)
        elif (worker := worker_of(hello.name)) is not None:
            await self._call(worker, data, connection)
        elif (nonce := nonce_of(hello.name)) is not None:
            await self._answer(nonce, connection)
        else:
            self._refused("unknown_name", connection.source, hello.name)
            await _turn_away(connection.ends)

    def _refused(self, why: Refusal, source: str, detail: str) -> None:
        self.routes.refuse(why)
        logger.info("connection refused why=%s source=%s detail=%s", why, source, detail)

    # Workers.

    async def _attend(self, data: bytes, connection: _Connection) -> None:
        """A control connection, to its end."""
        inside, outside = socket.socketpair()
        inner = await streams(inside)
        inner.writer.write(data)
        carrying = asyncio.ensure_future(splice(connection.ends, inner, idle_s=2 * SILENT_S))
        try:
            control = await Control.accept(outside, self._context)
            try:
                await self._converse(control, connection)
            finally:
                await control.close()
        except (OSError, TimeoutError) as error:
            self._refused("refused_registration", connection.source, repr(error))
        finally:
            outside.close()
            await asyncio.wait([carrying], timeout=LAST_WORD_S)  # which is on its way
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)

    async def _converse(self, control: Control, connection: _Connection) -> None:
        worker, greeting = control.worker, await control.greeted()
        if worker is None or greeting is None:
            control.dismiss(Dismissed(reason=NO_WORKER))
            self._refused("refused_registration", connection.source, str(worker))
            return
        reason = await self._admit(worker)
        if reason is not None:
            control.dismiss(Dismissed(reason=reason))
            self._refused("refused_registration", connection.source, f"{worker}: {reason}")
            return
        connection.opened()
        self.routes.admit(worker)
        registered = self.routes.register(worker, greeting.instance, connection.source)
        self._controls[registered.number] = control
        if registered.replaced is not None:
            if registered.doubled:
                logger.warning("worker registered twice worker=%s newest_source=%s", worker, connection.source)
            before = self._controls[registered.replaced]
            before.dismiss(Dismissed(reason=REPLACED.format(source=connection.source), replaced=registered.doubled))
        control.say(Welcome())
        logger.info("worker registered worker=%s source=%s", worker, connection.source)
        try:
            await control.keep()
        finally:
            del self._controls[registered.number]
            self.routes.unregister(worker, registered.number)
            logger.info("worker gone worker=%s source=%s", worker, connection.source)

    async def _answer(self, nonce: str, connection: _Connection) -> None:
        """A worker has opened a connection for a caller: the session, to its end."""
        caller = self._callers.pop(nonce, None)
        worker = self.routes.answered(nonce)
        if caller is None or worker is None:
            logger.info("connection refused why=unknown_nonce source=%s", connection.source)
            return
        connection.opened()
        caller.answered.set()
        self._sessions[caller] = connection.ends
        carried_bytes = 0

        async def through(size_bytes: int) -> None:
            nonlocal carried_bytes
            carried_bytes += size_bytes
            await self._through(worker, size_bytes)

        try:
            connection.ends.writer.write(caller.data)
            await splice(caller.ends, connection.ends, through)
        finally:
            logger.info("session over worker=%s caller=%s bytes=%d", worker, caller.source, carried_bytes)
            del self._sessions[caller]
            self.routes.ended(worker)
            caller.over.set()
            if not self.routes.sessions[worker]:
                self._lines.pop(worker, None)

    async def _through(self, worker: WorkerId, size_bytes: int) -> None:
        """Hold a piece of the worker's back as the limits say. ConnectionAbortedError when its budget is spent."""
        if not self.routes.spend(worker, size_bytes, asyncio.get_running_loop().time()):
            raise ConnectionAbortedError(f"{worker} has used up its budget")
        line = self._lines.get(worker)
        if line is None:
            line = self._lines[worker] = Valve()
            line.limit(self.routes.limits.worker_bytes_per_s)
        await line.through(size_bytes)
        await self._line.through(size_bytes)

    # Callers.

    async def _call(self, worker: WorkerId, data: bytes, connection: _Connection) -> None:
        nonce, now = new_nonce(), asyncio.get_running_loop().time()
        refusal = self.routes.call(worker, connection.source, nonce, now)
        if refusal is not None:
            logger.info("connection refused why=%s source=%s worker=%s", refusal, connection.source, worker)
            await _turn_away(connection.ends)
            return
        caller = self._callers[nonce] = _Caller(worker, connection.source, data, connection.ends)
        self._controls[self.routes.seats[worker].number].say(Invitation(nonce=nonce))
        try:
            async with asyncio.timeout(INVITATION_S):
                await caller.answered.wait()
        except TimeoutError:
            self._refused("worker_silent", connection.source, worker)
            await _turn_away(connection.ends)
            return
        finally:
            self._callers.pop(nonce, None)
            self.routes.withdraw(nonce)
        connection.opened()
        await caller.over.wait()


async def streams(connection: socket.socket) -> Ends:
    """A connected socket, with buffers for a line of hundreds of Mbit/s."""
    connection.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=connection, limit=BUFFER_BYTES)
    writer.transport.set_write_buffer_limits(high=BUFFER_BYTES)
    return Ends(reader, writer)


async def _read_hello(reader: asyncio.StreamReader) -> tuple[Hello, bytes]:
    """As much as it takes, and all that came with it."""
    data = b""
    while isinstance(hello := parse(data), Unfinished):
        piece = await reader.read(MOST_BYTES)
        if not piece:
            break
        data += piece
    return hello, data


async def _turn_away(ends: Ends) -> None:
    ends.writer.write(NOBODY_HERE)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORD_S):
            await ends.close()
