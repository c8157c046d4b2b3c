"""Everything behind the routes, opened and closed together: store, authority, coordinator, and their tasks."""

import asyncio
import logging
import socket
import sqlite3
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from legion.errors import LegionError, StorageFailed, Unusable
from legion.identity import Invite, client_context
from legion_server.auth.ca import Authority, open_authority
from legion_server.auth.limits import FailureLimit
from legion_server.auth.tokens import open_admin_token, token_sha256
from legion_server.service.assembler import Assembler
from legion_server.service.blobs import Blobs
from legion_server.service.checkpoints import Checkpoints
from legion_server.service.coordinator import Clock, Coordinator
from legion_server.service.dataset import Datasets
from legion_server.service.dialling import Dialler
from legion_server.service.doubles import Doubles
from legion_server.service.events import Events
from legion_server.service.follower import Follower
from legion_server.service.link_book import LinkBook
from legion_server.service.metrics import Metrics
from legion_server.service.references import References
from legion_server.service.relays import Relays, open_relays
from legion_server.service.round_log import RoundLog
from legion_server.service.slices import SliceFiles
from legion_server.settings import Settings
from legion_server.store.api import Store
from legion_server.store.sql import SqlStore

logger = logging.getLogger(__name__)

EVERYWHERE = ("0.0.0.0", "::", "")
MOST_PROBES = 4  # bursts at a time: more would measure our line, not the workers'
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Backend:
    """What routes and pages may use. `settings.port` is the real one."""

    settings: Settings
    clock: Clock
    started_at: float
    store: Store
    authority: Authority
    admin_token_sha256: str
    failures: FailureLimit
    events: Events
    files: SliceFiles
    coordinator: Coordinator
    checkpoints: Checkpoints
    round_log: RoundLog
    references: References
    blobs: Blobs
    datasets: Datasets
    metrics: Metrics
    relays: Relays
    dialler: Dialler
    link_book: LinkBook
    doubles: Doubles
    probes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_PROBES))

    def invite(self, token: str) -> Invite:
        return Invite(invite_host(self.settings), self.settings.port, token, self.authority.fingerprint)


@asynccontextmanager
async def opened(
    settings: Settings, clock: Clock, *, resume: bool = False, steady: Clock | None = None
) -> AsyncIterator[Backend]:
    """A running backend. `steady`: see Coordinator. StorageFailed when the data folder cannot be used, or is in use."""
    make_data_dir(settings.data_dir)
    with locked(settings.data_dir):
        backend = _build(settings, clock, steady)
        await backend.store.open()
        try:
            await backend.coordinator.open()
            if resume:
                await backend.coordinator.resume()
            async with _serving(backend):
                yield backend
        finally:
            backend.events.close()
            await backend.store.close()


def _build(settings: Settings, clock: Clock, steady: Clock | None) -> Backend:
    now = clock()
    authority = open_authority(settings.data_dir, now)
    authority.issue_server(own_names(settings), now)
    token = settings.admin_token.get_secret_value() if settings.admin_token else None
    store = SqlStore(settings.database)
    events = Events()
    files = SliceFiles(settings.slices_dir, settings.checkpoints_dir)
    references = References(settings.anchors_dir)
    coordinator = Coordinator(store, events, files, clock, steady, assembling=settings.assembler)
    return Backend(
        settings=settings,
        clock=clock,
        started_at=now,
        store=store,
        authority=authority,
        admin_token_sha256=token_sha256(open_admin_token(settings.data_dir, token)),
        failures=FailureLimit(),
        events=events,
        files=files,
        coordinator=coordinator,
        checkpoints=Checkpoints(coordinator),
        round_log=RoundLog(coordinator, store, references),
        references=references,
        blobs=Blobs(
            settings.updates_url, settings.incoming_dir, owner=authority.fingerprint[:16] if settings.blobs_url else ""
        ),
        datasets=Datasets(coordinator, settings.blobs_dir),
        metrics=Metrics(coordinator, store),
        relays=open_relays(settings.data_dir),
        dialler=Dialler(dialling_context(authority)),
        link_book=LinkBook(coordinator, clock),
        doubles=Doubles(clock),
    )


@asynccontextmanager
async def _serving(backend: Backend) -> AsyncIterator[None]:
    """The background tasks, each until the block is left. If one fails, or the block, its error comes out as it is."""
    coordinator, files, settings = backend.coordinator, backend.files, backend.settings
    log, blobs = backend.round_log, backend.blobs
    follower = Follower(coordinator, log, blobs, backend.references, files, settings.anchors_dir)
    parts = [coordinator.serve(), backend.datasets.serve(), follower.serve()]
    if settings.assembler:
        parts.append(Assembler(coordinator, backend.checkpoints, files, settings.blobs_dir).serve())
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
            yield
            for task in tasks:
                task.cancel()
    except ExceptionGroup as failed:
        # A LegionError becomes a sentence and an exit code; inside a group it would be a traceback.
        if all(isinstance(error, LegionError) for error in failed.exceptions):
            raise failed.exceptions[0] from None
        raise


def dialling_context(authority: Authority) -> ssl.SSLContext:
    """Believes workers of this authority, and shows them the server's own certificate."""
    context = client_context(authority.certificate_pem)
    context.load_cert_chain(authority.server_certificate_file, authority.server_key_file)
    return context


def make_data_dir(folder: Path) -> None:
    """StorageFailed when it cannot be made or written to."""
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, mode=0o700)
        probe = folder / ".probe"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise StorageFailed(
            f"the data folder {folder} cannot be used: {error.strerror}",
            hint="Free disk space, or choose another folder with --data-dir.",
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the data folder against a second server. The lock dies with the process, however it dies."""
    connection = sqlite3.connect(folder / "lock", timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        connection.close()
        if "locked" not in str(error):
            raise StorageFailed(f"{folder / 'lock'} cannot be used: {error}") from error
        raise StorageFailed(
            f"the data folder {folder} is in use by another server",
            hint="Stop that server, or choose another folder with --data-dir.",
        ) from error
    try:
        yield
    finally:
        connection.close()


def own_names(settings: Settings) -> set[str]:
    """Names and addresses that the server's certificate is good for."""
    names = {*LOOPBACK, *settings.names, invite_host(settings)}
    if settings.host in EVERYWHERE:
        names |= _network_addresses()
        hostname = socket.gethostname()
        if hostname.isascii() and hostname:
            names.add(hostname)
    return names


def invite_host(settings: Settings) -> str:
    """What invites say: where workers find this server."""
    if settings.public_host is not None:
        if not settings.public_host.strip():
            raise Unusable("the public host is empty")
        return settings.public_host
    if settings.host not in EVERYWHERE:
        return settings.host
    return next(iter(sorted(_network_addresses())), "127.0.0.1")


def _network_addresses() -> set[str]:
    """The address other computers of the local network know this one by; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1, RFC 5737: only asks the routing table
        except OSError:
            return set()  # no network: loopback is all there is
        address = str(probe.getsockname()[0])
    return set() if ip_address(address).is_unspecified else {address}
