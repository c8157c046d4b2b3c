"""A relay's program: the port, and the server that it answers to."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from legion.errors import LegionError
from legion.identity import CERTIFICATE_FILE, KEY_FILE, mutual_server_context, write_private
from legion.ids import WorkerId
from legion.messages import PROTOCOL, Endpoint
from legion.relaying import RELAY_HEARTBEAT_S, RelayHeartbeat, RelayLoad
from legion_server.relay.coordinator import Coordinator
from legion_server.relay.enrolment import Enrolment, renew
from legion_server.relay.routes import Routes
from legion_server.relay.server import Relay

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

EVERYWHERE = "0.0.0.0"  # the server puts in the address that it sees us at


class Service:
    """`serve` once."""

    def __init__(self, enrolment: Enrolment, server: Coordinator, routes: Routes, public_host: str | None) -> None:
        self._enrolment = enrolment
        self._server = server
        self._public_host = public_host
        self._context = mutual_server_context(enrolment.folder)
        self._relay = Relay(enrolment.relay_id, self._context, routes, self._admit)
        self._unsure: set[WorkerId] = set()  # admitted while the server could not be asked
        self._problem: str | None = None

    async def serve(self, listener: socket.socket, on_ready: Callable[[], None]) -> None:
        """Until cancelled. What the server says of this relay's own enrolment ends it."""
        port = listener.getsockname()[1]
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._relay.serve(listener))
                tasks.create_task(self._heartbeats(port))
                on_ready()
        except* LegionError as errors:
            raise errors.exceptions[0] from None

    async def _admit(self, worker: WorkerId) -> str | None:
        """Its certificate is the run's; whether it is still wanted, the server says.

        While the server is away the certificate must do: a run goes on without its server, and every heartbeat asks
        again for all who are here.
        """
        try:
            return await self._server.why_not(worker)
        except LegionError as error:
            logger.warning("worker admitted unasked worker=%s reason=%s", worker, error)
            return None

    async def _heartbeats(self, port: int) -> None:
        carried, loop = self._relay.carried_bytes, asyncio.get_running_loop()
        before = loop.time()
        while True:
            now, total = loop.time(), self._relay.carried_bytes
            rate = (total - carried) / max(now - before, 0.001)
            carried, before = total, now
            await self._beat(port, rate)
            self._relay.routes.forget_rested(now)
            await asyncio.sleep(RELAY_HEARTBEAT_S)

    async def _beat(self, port: int, bytes_per_s: float) -> None:
        routes = self._relay.routes
        endpoint = Endpoint(host=self._public_host or EVERYWHERE, port=port)
        doubled = routes.take_doubled()
        beat = RelayHeartbeat(
            protocol=PROTOCOL,
            endpoint=endpoint,
            load=load_of(routes, bytes_per_s),
            workers=tuple(routes.seats),
            doubled=doubled,
        )
        try:
            reply = await self._server.heartbeat(beat)
        except LegionError as error:
            routes.doubled.update(doubled)
            if not error.retryable:
                raise
            logger.warning("server not told reason=%s", error)
            return
        self._relay.dismiss(reply.refused)
        if reply.certificate_renewal:
            await self._renew()
        if reply.problem != self._problem:
            self._problem = reply.problem
            if reply.problem is not None:
                logger.error("workers are not sent here reason=%s", reply.problem)
            else:
                logger.info("workers are sent here")

    async def _renew(self) -> None:
        """From the next handshake on; connections of before go on as they are."""
        folder = self._enrolment.folder
        try:
            await renew(self._enrolment, self._server)
        except LegionError as error:  # there is time: the next heartbeat says so again
            logger.warning("certificate not renewed reason=%s", error)
            return
        self._context.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE)
        logger.info("certificate renewed relay=%s", self._enrolment.relay_id)


def load_of(routes: Routes, bytes_per_s: float) -> RelayLoad:
    sessions, limits = routes.sessions.total(), routes.limits
    return RelayLoad(
        workers=len(routes.seats),
        sessions=sessions,
        bytes_per_s=bytes_per_s,
        share=min(1.0, max(bytes_per_s / limits.bytes_per_s, sessions / limits.sessions)),
        refusals=dict(routes.refusals),
    )


def raise_file_limit() -> None:
    """A session takes two descriptors, a worker three; what a shell allows by itself is a thousand."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # macOS names no limit, and has one
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(
    enrolment: Enrolment,
    listener: socket.socket,
    routes: Routes,
    *,
    public_host: str | None,
    ready_file: Path | None,
    say: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM."""
    host, port = listener.getsockname()[:2]
    raise_file_limit()

    def ready() -> None:
        if ready_file is not None:
            write_private(ready_file.absolute(), f"{host} {port}\n".encode())
        say(f"listening {host} {port}")

    async def serve() -> None:
        identity = enrolment.identity
        async with Coordinator(
            enrolment.base_url, identity.authority_pem, enrolment.relay_id, enrolment.token
        ) as server:
            serving = asyncio.ensure_future(Service(enrolment, server, routes, public_host).serve(listener, ready))
            previous = {
                which: signal.signal(which, lambda *_: loop.call_soon_threadsafe(serving.cancel))
                for which in (signal.SIGINT, signal.SIGTERM)
            }
            loop = asyncio.get_running_loop()
            try:
                await asyncio.wait([serving])
                if not serving.cancelled():
                    serving.result()
            finally:
                for which, handler in previous.items():
                    signal.signal(which, handler)

    asyncio.run(serve())
    logger.info("relay stopped")
