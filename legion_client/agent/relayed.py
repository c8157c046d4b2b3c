"""A relay from the worker's side: a control connection that is kept, and each invitation answered by a connection.

The peers' TLS ends in the engine. The agent copies bytes between the relay and the engine's port and can read none.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from legion.comm.splice import BUFFER_BYTES, Ends, splice
from legion.messages import PROTOCOL, Endpoint, Message
from legion.relaying import (
    INVITATION_S,
    LONGEST_LINE,
    PING_S,
    SILENT_S,
    Dismissed,
    Greeting,
    Invitation,
    Ping,
    RelayView,
    Welcome,
    line_of,
    relay_name,
    session_name,
    word_of,
)

logger = logging.getLogger(__name__)

CONNECT_S = 5.0
MOST_SESSIONS = 512


@dataclass(frozen=True, slots=True)
class Over:
    """Why a control connection ended. `replaced`: another program has registered with our key."""

    reason: str
    welcomed: bool = False
    replaced: bool = False


async def hold(
    relay: RelayView,
    context: ssl.SSLContext,
    instance: str,
    engine: Callable[[], Endpoint | None],
    on_welcome: Callable[[], None],
) -> Over:
    """Be found at this relay until it or the connection to it ends. `engine`: where callers are brought to."""
    host, port = relay.endpoint.host, relay.endpoint.port
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=relay_name(relay.relay_id), limit=LONGEST_LINE
            )
    except (OSError, TimeoutError) as error:
        return Over(f"{host}:{port} cannot be reached: {str(error) or type(error).__name__}")
    control = Ends(reader, writer)
    try:
        return await _Held(relay, engine, on_welcome).converse(control, instance)
    except OSError as error:
        return Over(f"the connection to {host}:{port} broke: {error}")
    finally:
        control.abort()


class _Held:
    """One control connection's conversation, and the sessions that came of it."""

    def __init__(self, relay: RelayView, engine: Callable[[], Endpoint | None], on_welcome: Callable[[], None]) -> None:
        self._relay = relay
        self._engine = engine
        self._on_welcome = on_welcome
        self._sessions: set[asyncio.Task[None]] = set()
        self._welcomed = False

    async def converse(self, control: Ends, instance: str) -> Over:
        _say(control, Greeting(protocol=PROTOCOL, instance=instance))
        pinging = asyncio.ensure_future(_ping(control))
        try:
            async for word in _words(control):
                match word:
                    case Welcome():
                        self._welcomed = True
                        self._on_welcome()
                    case Invitation(nonce=nonce):
                        self._answer(nonce)
                    case Dismissed(reason=reason, replaced=replaced):
                        return Over(reason, self._welcomed, replaced)
            return Over("the relay has gone, or says nothing any more", self._welcomed)
        finally:
            tasks = [pinging, *self._sessions]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _answer(self, nonce: str) -> None:
        if len(self._sessions) >= MOST_SESSIONS:
            logger.warning("invitation refused sessions=%d", MOST_SESSIONS)
            return
        task = asyncio.ensure_future(self._session(nonce))
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    async def _session(self, nonce: str) -> None:
        engine = self._engine()
        if engine is None:
            return  # nobody to bring the caller to; the relay gives up by itself
        outer: Ends | None = None
        try:
            async with asyncio.timeout(INVITATION_S):
                inner = await _connected(engine)
                try:
                    outer = await _connected(self._relay.endpoint)
                finally:
                    if outer is None:
                        inner.abort()
        except (OSError, TimeoutError) as error:
            logger.warning("invitation not answered reason=%s", str(error) or type(error).__name__)
            return
        outer.writer.write(client_hello(session_name(nonce)))
        await splice(outer, inner)


async def _words(control: Ends) -> AsyncIterator[Message]:
    """Until the relay is silent for too long, goes, or says what no relay says."""
    while True:
        try:
            async with asyncio.timeout(SILENT_S):
                line = await control.reader.readuntil(b"\n")
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        word = word_of(line)
        if word is None:
            return
        yield word


async def _ping(control: Ends) -> None:
    while True:
        await asyncio.sleep(PING_S)
        _say(control, Ping())


def _say(control: Ends, word: Message) -> None:
    control.writer.write(line_of(word))


async def _connected(endpoint: Endpoint) -> Ends:
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=BUFFER_BYTES)
    writer.transport.set_write_buffer_limits(high=BUFFER_BYTES)
    return Ends(reader, writer)


def client_hello(name: str) -> bytes:
    """The first message of a TLS client that asks for `name`; nothing follows it, it only says where to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()
