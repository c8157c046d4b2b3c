"""One port for HTTPS and, where that is safe, plain HTTP: the first byte of a connection says which it is.

A TLS connection begins with the record type 0x16 (RFC 8446, 5.1), which begins no HTTP request. Plain HTTP is
answered to this machine and to trusted proxies; others learn how to do it right.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from legion.errors import PortInUse, Unavailable
from legion_server.node import Node
from legion_server.settings import Settings

logger = logging.getLogger(__name__)

HANDSHAKE_S = 5.0
SHUTDOWN_S = 5.0
STREAMS_S = 1.0  # for event streams to say so
KEEP_ALIVE_S = 60  # longer than clients keep an idle connection: else one closes as the other speaks
BACKLOG = 256
MOST_GREETINGS = 1024  # connections that have not said anything yet
TLS_HANDSHAKE = 0x16
REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
REFUSAL_BODY = (
    b'{"type":"urn:legion:problem:plain-http","title":"This server speaks HTTPS","status":400,'
    b'"detail":"plain HTTP is answered only on the server itself and to its trusted proxies",'
    b'"slug":"plain-http","hint":"Use https:// with the authority of your invite.","retryable":false,"errors":[]}'
)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. PortInUse, or Unavailable for an address that is not this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"the server cannot listen on {host}: {error.strerror}") from error
    try:
        if os.name == "posix":
            # Elsewhere the option means something else: two servers could share the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} on {host} is in use") from error
        raise Unavailable(f"the server cannot listen on {host} port {port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


class Server(uvicorn.Server):
    """uvicorn behind our own door. The application's lifespan is the caller's."""

    def __init__(self, app: Any, listener: socket.socket, context: ssl.SSLContext, settings: Settings) -> None:
        self._node: Node = app.state.node
        self._drains = True
        self._hurries = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                http="h11",
                ws="websockets-sansio",
                ws_max_size=2**16,
                server_header=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
                timeout_graceful_shutdown=int(SHUTDOWN_S),
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self._listener = listener
        self._context = context
        self._settings = settings
        self._greetings: set[asyncio.Task[None]] = set()

    async def serve_until_asked(self, on_ready: Callable[[], None], on_reload: Callable[[], None]) -> None:
        """Until SIGINT or SIGTERM, or `should_exit`; `on_reload` for every SIGHUP.

        After SIGTERM the server says that it is not ready and serves on for `drain_s`. Then streams are told that it
        goes, and requests under way get SHUTDOWN_S to end.
        """
        previous = {which: signal.signal(which, self._stop) for which in (signal.SIGINT, signal.SIGTERM)}
        if hasattr(signal, "SIGHUP"):
            loop = asyncio.get_running_loop()
            again = signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(on_reload))
            previous[signal.SIGHUP] = again
        try:
            if not self.config.loaded:
                self.config.load()
            self.lifespan = self.config.lifespan_class(self.config)
            self.servers = []
            self.started = True
            async with asyncio.TaskGroup() as tasks:
                accepting = tasks.create_task(self._accept(tasks))
                on_ready()
                await self.main_loop()
                await self._drain()
                accepting.cancel()
                for greeting in self._greetings:
                    greeting.cancel()
            await self._end_streams()
            await self.shutdown(sockets=[self._listener])
        finally:
            for which, handler in previous.items():
                signal.signal(which, handler)

    def _stop(self, which: int, _: FrameType | None) -> None:
        if self.should_exit:  # a second signal does not wait for requests
            self.force_exit = True
            asyncio.get_running_loop().call_soon_threadsafe(self._hurries.set)
        self.should_exit = True
        self._drains = which != signal.SIGINT  # somebody at the keyboard has no load balancer

    async def _drain(self) -> None:
        self._node.is_draining = True
        if self._drains and self._settings.drain_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurries.wait(), self._settings.drain_s)

    async def _end_streams(self) -> None:
        """With the code for going away, before uvicorn closes what is open with that for a restart."""
        self._node.close_streams()
        if self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=STREAMS_S)

    async def _accept(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:
                # Out of file descriptors, or a peer that is gone already: the listener itself is fine.
                logger.warning("connection not accepted reason=%s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            if len(self._greetings) >= MOST_GREETINGS:
                connection.close()
                continue
            greeting = tasks.create_task(self._greet(connection, str(address[0])))
            self._greetings.add(greeting)
            greeting.add_done_callback(self._greetings.discard)

    async def _greet(self, connection: socket.socket, peer: str) -> None:
        """Hand the connection to uvicorn, or close it."""
        handed_over = False
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(HANDSHAKE_S):
                first = await _first_byte(connection)
            if first == TLS_HANDSHAKE or (first is not None and self._settings.may_speak_plainly(peer)):
                handed_over = True  # whatever happens now, the transport closes it
                await self._hand_over(connection, self._context if first == TLS_HANDSHAKE else None)
            elif first is not None:
                async with asyncio.timeout(HANDSHAKE_S):
                    await _refuse(connection)
        except (OSError, TimeoutError) as error:
            # Scanners, half-open connections and clients with another authority end here.
            logger.debug("connection closed before a request peer=%s reason=%r", peer, error)
        finally:
            if not handed_over:
                connection.close()

    async def _hand_over(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        timeout_s = HANDSHAKE_S if context else None
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._protocol, connection, ssl=context, ssl_handshake_timeout=timeout_s)

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        protocol = kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        assert isinstance(protocol, asyncio.Protocol)
        return protocol


async def _first_byte(connection: socket.socket) -> int | None:
    """The first byte, left in the socket's buffer; None when the peer has closed."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            found = connection.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await _readable(loop, connection)
        else:
            return found[0] if found else None


async def _readable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)


async def _refuse(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_recv(connection, 65536)  # unread bytes would turn the answer into a reset
    await loop.sock_sendall(connection, REFUSAL % (len(REFUSAL_BODY), REFUSAL_BODY))
    connection.shutdown(socket.SHUT_WR)
