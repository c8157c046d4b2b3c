"""Everything behind the routes, opened and closed together: store, authority, coordinator, and their tasks."""

import asyncio
import logging
import socket
import sqlite3
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from legion.errors import LegionError, StorageFailed, Unusable
from legion.identity import Invite, client_context
from legion_server.auth.ca import Authority, open_authority
from legion_server.auth.invites import Invites
from legion_server.auth.limits import FailureLimit
from legion_server.auth.sessions import Sessions
from legion_server.auth.tokens import open_admin_token, token_sha256
from legion_server.service.accounts import Accounts
from legion_server.service.assembler import Assembler
from legion_server.service.audit import Audit
from legion_server.service.blobs import Blobs
from legion_server.service.boards import Boards
from legion_server.service.checkpoints import Checkpoints
from legion_server.service.coordinator import Clock, Coordinator
from legion_server.service.dataset import Datasets
from legion_server.service.dialling import Dialler
from legion_server.service.doubles import Doubles
from legion_server.service.events import Events
from legion_server.service.follower import Follower
from legion_server.service.link_book import LinkBook
from legion_server.service.metrics import Metrics
from legion_server.service.queue import Queue
from legion_server.service.references import References
from legion_server.service.relays import Relays, open_relays
from legion_server.service.round_log import RoundLog
from legion_server.service.run_files import RunFiles
from legion_server.service.run_list import RunList
from legion_server.service.slices import SliceFiles
from legion_server.service.statistics import Statistics
from legion_server.service.steering import Steering
from legion_server.service.succession import Part, Succession
from legion_server.service.teams import Teams
from legion_server.settings import Settings
from legion_server.store.accounts import AccountStore
from legion_server.store.api import Store
from legion_server.store.audit import AuditStore
from legion_server.store.database import Database
from legion_server.store.invites import InviteStore
from legion_server.store.run_archive import RunArchives
from legion_server.store.run_queue import RunQueue
from legion_server.store.sessions import SessionStore
from legion_server.store.sql import SqlStore
from legion_server.store.standings import StandingStore
from legion_server.store.statistics import StatisticsStore
from legion_server.store.teams import TeamStore

logger = logging.getLogger(__name__)

EVERYWHERE = ("0.0.0.0", "::", "")
MOST_PROBES = 4  # bursts at a time: more would measure our line, not the workers'
BEHIND_S = 60.0  # a clock that is only kept right was never so far ahead
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Backend:
    """What routes and pages may use. `settings.port` is the real one."""

    settings: Settings
    clock: Clock
    started_at: float
    database: Database
    store: Store
    authority: Authority
    admin_token_sha256: str
    failures: FailureLimit
    sessions: Sessions
    audit: Audit
    invites: Invites
    events: Events
    files: SliceFiles
    coordinator: Coordinator
    steering: Steering
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
    accounts: Accounts
    teams: Teams
    boards: Boards
    archives: RunArchives
    queue: Queue
    run_files: RunFiles
    run_list: RunList
    statistics: Statistics
    probes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_PROBES))


@asynccontextmanager
async def opened(
    settings: Settings, clock: Clock, *, resume: bool = False, steady: Clock | None = None
) -> AsyncIterator[Backend]:
    """A running backend. `steady`: see Coordinator. StorageFailed when the data folder cannot be used, or is in use."""
    make_data_dir(settings.data_dir)
    with locked(settings.data_dir):
        backend = build(settings, clock, steady, Database(settings.database), Events())
        try:
            await backend.store.open()
            async with leading(backend, resume=resume):
                yield backend
        finally:
            backend.events.close()
            await backend.store.close()


@asynccontextmanager
async def leading(backend: Backend, *, resume: bool) -> AsyncIterator[None]:
    """The backend of the server that decides, with all its tasks."""
    await backend.coordinator.open()
    await backend.queue.load()
    ahead_s = backend.events.newest_at - backend.clock()
    if ahead_s > BEHIND_S:
        logger.warning("clock is behind what the database has seen, set it by_s=%.0f", ahead_s)
    if resume:
        await backend.steering.resume()
    async with _serving(backend):
        yield


def build(
    settings: Settings,
    clock: Clock,
    steady: Clock | None,
    database: Database,
    events: Events,
    certificate_dir: Path | None = None,
) -> Backend:
    """Nothing runs yet. `certificate_dir`: of one of several servers that share a data folder."""
    now = clock()
    authority = open_authority(settings.data_dir, now)
    authority.issue_server(own_names(settings), now, certificate_dir)
    token = settings.admin_token.get_secret_value() if settings.admin_token else None
    store = SqlStore(database)
    people = AccountStore(database), TeamStore(database), StandingStore(database)
    admin_token_sha256 = token_sha256(open_admin_token(settings.data_dir, token))
    sessions = Sessions(SessionStore(database), clock, admin_token_sha256)
    files = SliceFiles(settings.slices_dir, settings.checkpoints_dir)
    references = References(settings.anchors_dir)
    blobs = Blobs(
        settings.updates_url, settings.incoming_dir, owner=authority.fingerprint[:16] if settings.blobs_url else ""
    )
    coordinator = Coordinator(store, events, files, clock, steady, assembling=settings.assembler)
    datasets, metrics = Datasets(coordinator, settings.blobs_dir), Metrics(coordinator, store)
    archives, queue, run_files = RunArchives(database), Queue(RunQueue(database)), RunFiles(settings, files, blobs)
    return Backend(
        settings=settings,
        clock=clock,
        started_at=now,
        database=database,
        store=store,
        authority=authority,
        admin_token_sha256=admin_token_sha256,
        failures=FailureLimit(),
        sessions=sessions,
        audit=Audit(AuditStore(database), clock),
        invites=Invites(InviteStore(database), clock, _invites(settings, authority)),
        events=events,
        files=files,
        coordinator=coordinator,
        steering=Steering(coordinator, assembling=settings.assembler),
        checkpoints=Checkpoints(coordinator),
        round_log=RoundLog(coordinator, store, references),
        references=references,
        blobs=blobs,
        datasets=datasets,
        metrics=metrics,
        relays=open_relays(settings.data_dir),
        dialler=Dialler(dialling_context(authority)),
        link_book=LinkBook(coordinator, clock),
        doubles=Doubles(clock),
        accounts=Accounts(*people, sessions, clock),
        teams=Teams(*people, clock),
        boards=Boards(*people, clock),
        archives=archives,
        queue=queue,
        run_files=run_files,
        run_list=RunList(coordinator, metrics, queue, archives, datasets, run_files),
        statistics=Statistics(StatisticsStore(database), settings.exports_dir, clock),
    )


def _invites(settings: Settings, authority: Authority) -> Callable[[str], Invite]:
    """What a token is in full."""
    host = invite_host(settings)
    return lambda token: Invite(host, settings.port, token, authority.fingerprint)


@asynccontextmanager
async def _serving(backend: Backend) -> AsyncIterator[None]:
    """The background tasks, each until the block is left. If one fails, or the block, its error comes out as it is."""
    coordinator, settings = backend.coordinator, backend.settings
    succession = Succession(
        coordinator,
        backend.store,
        backend.queue,
        backend.datasets,
        backend.run_files,
        lambda: _of_a_run(backend),
        assembling=settings.assembler,
    )
    # Writing on into a damaged database would make it worse, and what was acknowledged could not be kept.
    parts = [backend.store.until_damaged(), coordinator.serve(), backend.datasets.serve(), succession.serve()]
    async with ungrouped(), asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in parts]
        yield
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def ungrouped() -> AsyncIterator[None]:
    """A LegionError becomes a sentence and an exit code; inside a task group's it would be a traceback."""
    try:
        yield
    except ExceptionGroup as failed:
        if all(isinstance(error, LegionError) for error in failed.exceptions):
            raise failed.exceptions[0] from None
        raise


def _of_a_run(backend: Backend) -> list[Part]:
    """What works on the files of one run."""
    coordinator, files, settings = backend.coordinator, backend.files, backend.settings
    follower = Follower(coordinator, backend.round_log, backend.blobs, backend.references, files, settings.anchors_dir)
    parts = [Part(follower.serve, follower.at_work)]
    if settings.assembler:
        assembler = Assembler(coordinator, backend.checkpoints, files, settings.blobs_dir)
        parts.append(Part(assembler.serve, assembler.at_work))
    return parts


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
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the data folder against a second server, or (`shared`) against one that wants it for itself.

    The lock dies with the process, however it dies.
    """
    connection = sqlite3.connect(folder / "lock", timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN" if shared else "BEGIN EXCLUSIVE")
        connection.execute("SELECT * FROM sqlite_master").fetchall()  # takes the shared one
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
    names = {*LOOPBACK, *settings.names, invite_host(settings), internal_host(settings)}
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
    return _own_address(settings)


def internal_host(settings: Settings) -> str:
    """Where other servers of the same database find this one."""
    return settings.internal_host or _own_address(settings)


def _own_address(settings: Settings) -> str:
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
