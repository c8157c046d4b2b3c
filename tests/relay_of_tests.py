"""A relay on loopback in the test's own process, with identities of one throwaway authority, and workers held there."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from legion.identity import Identity, mutual_client_context, mutual_server_context
from legion.ids import RelayId, WorkerId
from legion.keys import key_pem, new_key, signing_request
from legion.messages import Endpoint
from legion.relaying import RelayLoad, RelayView, new_nonce
from legion_client.agent.relayed import Over, hold
from legion_server.auth.ca import open_authority
from legion_server.relay.routes import Limits, Routes
from legion_server.relay.server import Relay
from legion_server.transport import listen


@dataclass
class Running:
    """A relay that serves."""

    view: RelayView
    relay: Relay
    folder: Path
    serving: "asyncio.Future[None]"
    refused: dict[WorkerId, str] = field(default_factory=dict)  # why a worker may not register

    @property
    def routes(self) -> Routes:
        return self.relay.routes

    @property
    def endpoint(self) -> Endpoint:
        return self.view.endpoint

    def end(self) -> None:
        """As if it were killed: its connections end with it."""
        self.serving.cancel()

    def worker_folder(self, identity: Identity) -> Path:
        folder = self.folder / identity.worker_id
        identity.save(folder)
        return folder

    @contextlib.asynccontextmanager
    async def holding(
        self, identity: Identity, engine: Endpoint | None, instance: str | None = None
    ) -> AsyncIterator["asyncio.Future[Over]"]:
        """The worker is registered for the time of the block."""
        welcome = asyncio.Event()
        context = mutual_client_context(self.worker_folder(identity))
        over = asyncio.ensure_future(hold(self.view, context, instance or new_nonce(), lambda: engine, welcome.set))
        waiting = asyncio.ensure_future(welcome.wait())
        await asyncio.wait({over, waiting}, return_when=asyncio.FIRST_COMPLETED)
        try:
            yield over
        finally:
            waiting.cancel()
            over.cancel()
            await asyncio.gather(over, waiting, return_exceptions=True)


def relay_identity(folder: Path) -> tuple[RelayId, Path]:
    """Of a relay, saved in a folder of its own."""
    authority, key = open_authority(folder, time.time()), new_key()
    relay_id, certificate, _ = authority.sign_relay(signing_request(key), time.time())
    place = folder / f"relay-{relay_id}"
    Identity(key_pem(key), certificate.encode(), authority.certificate_pem.encode()).save(place)
    return relay_id, place


@contextlib.asynccontextmanager
async def running(folder: Path, limits: Limits | None = None) -> AsyncIterator[Running]:
    relay_id, place = relay_identity(folder)
    refused: dict[WorkerId, str] = {}

    async def admit(worker: WorkerId) -> str | None:
        return refused.get(worker)

    relay = Relay(relay_id, mutual_server_context(place), Routes(limits or Limits()), admit)
    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(host="127.0.0.1", port=listener.getsockname()[1])
        view = RelayView(relay_id=relay_id, name="relay", endpoint=endpoint, load=RelayLoad())
        serving = asyncio.ensure_future(relay.serve(listener))
        try:
            yield Running(view, relay, folder, serving, refused)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Let other tasks go on until the condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.to_thread(lambda: None)
