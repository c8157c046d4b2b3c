"""One server process: alone over SQLite, or one of several over a PostgreSQL, of which one leads.

The leader has all of the backend, and decides. The others have it to look at: what they may not answer from that they
hand on to the leader (`forwarding`).
"""

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from legion.errors import LegionError, NoLeader
from legion_server.backend import (
    Backend,
    build,
    internal_host,
    leading,
    locked,
    make_data_dir,
    opened,
    own_names,
    ungrouped,
)
from legion_server.service.coordinator import Clock
from legion_server.service.events import Events
from legion_server.service.following import Following
from legion_server.settings import Settings
from legion_server.store.database import Database
from legion_server.store.leadership import LEASE_S, Leader, Leadership, Term, client_of, no_writes, setting_up

logger = logging.getLogger(__name__)

RENEW_S = 1.0
POLL_S = 1.0  # between tries to lead, and after an error
FRESH_S = 1.0  # a caller that is not known here may have enrolled since the state was loaded
LEAST_FREE_BYTES = 100 * 2**20


class Node:
    """`backend` is there once `opened` is entered; another one takes its place when this server begins to lead."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        steady: Clock | None,
        show: Callable[[Backend], None],
        *,
        resume: bool,
    ) -> None:
        """`show` is told of every backend that begins to answer."""
        self.settings = settings
        self._show = show
        self.server = secrets.token_hex(8)
        self.is_draining = False
        self.backend: Backend | None = None
        self.leader: Leader | None = None
        self._clock = clock
        self._steady = steady
        self._resume = resume
        self._events = Events()
        self.is_alone = True
        self._term: Term | None = None
        self._following: Following | None = None
        self._has_begun = asyncio.Event()

    @property
    def leads(self) -> bool:
        return self.is_alone or (self._term is not None and self._term.holds)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """StorageFailed when the data folder cannot be used or is in use, Unavailable when the database cannot."""
        database = Database(self.settings.database, client=client_of(self.server))
        if database.is_sqlite:
            async with opened(self.settings, self._clock, resume=self._resume, steady=self._steady) as backend:
                self._become(backend)
                yield
            return
        self.is_alone = False
        make_data_dir(self.settings.data_dir)
        with locked(self.settings.data_dir, shared=True), TemporaryDirectory(prefix="legion-") as folder:
            try:
                await self._set_up(database, Path(folder))
                async with self._taking_turns(database, Path(folder)):
                    yield
            finally:
                self._events.close()
                await database.close()

    async def known_lately(self) -> None:
        """What this server answers from is at most a second old."""
        if self._following is not None and not self.leads:
            await self._following.load(older_than_s=FRESH_S)

    def issue_certificate(self) -> tuple[Path, Path]:
        """A new one for the HTTPS port, and its key: names and addresses may be others than at the start."""
        assert self.backend is not None
        authority = self.backend.authority
        authority.issue_server(own_names(self.settings), self._clock(), authority.server_key_file.parent)
        return authority.server_certificate_file, authority.server_key_file

    def close_streams(self) -> None:
        """Every stream of events ends."""
        self._events.close()
        if self.backend is not None:
            self.backend.events.close()

    async def problems(self) -> list[str]:
        """Why nobody should be sent here now; empty when all is well."""
        found = ["the server is about to stop"] if self.is_draining else []
        if not self.leads and (self.leader is None or not self.leader.is_heard):
            found.append("no server leads")
        if self.backend is None:
            return [*found, "the server is starting"]
        try:
            async with asyncio.timeout(LEASE_S):
                await self.backend.store.ping()
        except (LegionError, TimeoutError) as error:
            found.append(str(error) or f"the database does not answer within {LEASE_S:g} s")
        try:
            free = (await asyncio.to_thread(shutil.disk_usage, self.settings.data_dir)).free
        except OSError as error:
            return [*found, f"the data folder cannot be used: {error.strerror}"]
        if free < LEAST_FREE_BYTES:
            found.append(f"the data folder's disk has {free // 2**20} MiB left, less than {LEAST_FREE_BYTES // 2**20}")
        return found

    def leader_elsewhere(self) -> Leader:
        """NoLeader when there is none, or it is this server which does not lead yet, or no longer."""
        if self.leader is None or self.leader.server == self.server:
            raise NoLeader("no server leads at this moment")
        return self.leader

    def _become(self, backend: Backend) -> None:
        self.backend = backend
        self._show(backend)
        self._has_begun.set()

    async def _set_up(self, database: Database, folder: Path) -> None:
        """Schema and keys, which the first server makes, while no other does."""
        async with setting_up(database):
            await database.open()
            build(self.settings, self._clock, self._steady, database, Events(), folder)

    @asynccontextmanager
    async def _taking_turns(self, database: Database, folder: Path) -> AsyncIterator[None]:
        host, port = internal_host(self.settings), self.settings.port
        leadership = Leadership(database, self.server, host, port, time.monotonic)
        async with ungrouped(), asyncio.TaskGroup() as group:
            task = group.create_task(self._take_turns(leadership, folder))
            begun = group.create_task(self._has_begun.wait())
            await asyncio.wait({task, begun}, return_when=asyncio.FIRST_COMPLETED)
            yield
            task.cancel()
            begun.cancel()

    async def _take_turns(self, leadership: Leadership, folder: Path) -> None:
        while True:
            try:
                term = await leadership.try_to_lead() or await self._stand_by(leadership, folder)
                await self._lead(leadership, term, folder)
            except LegionError as error:
                if not self._has_begun.is_set():
                    raise
                logger.warning("server does not lead reason=%s", error)
            finally:
                self._term = None
                await leadership.step_down()
            await asyncio.sleep(POLL_S)

    async def _stand_by(self, leadership: Leadership, folder: Path) -> Term:
        """Look at what the leader saves, until there is none."""
        database = Database(self.settings.database, client=client_of(self.server), guard=no_writes)
        backend = build(self.settings, self._clock, self._steady, database, self._events, folder)
        following = Following(database, backend.store, backend.coordinator, self._events)
        try:
            async with ungrouped(), asyncio.TaskGroup() as group:
                follow = group.create_task(following.serve())
                while True:
                    self.leader = leadership.known
                    if following.started.is_set() and self._following is not following:
                        self._following = following
                        self._become(backend)
                    if (term := await leadership.try_to_lead()) is not None:
                        follow.cancel()
                        return term
                    await asyncio.sleep(POLL_S)
        finally:
            await database.close()
        raise NoLeader

    async def _lead(self, leadership: Leadership, term: Term, folder: Path) -> None:
        """Until the term is over, which is always an error."""
        database = Database(self.settings.database, client=client_of(self.server), guard=term.guard)
        backend = build(self.settings, self._clock, self._steady, database, self._events, folder)
        try:
            async with ungrouped(), asyncio.TaskGroup() as group:
                renewing = group.create_task(_renew(leadership, term))
                async with leading(backend, resume=self._resume):
                    self._term, self._following, self._resume = term, None, False
                    self._become(backend)
                    await asyncio.wait({renewing})
        finally:
            term.is_over = True
            await database.close()


async def _renew(leadership: Leadership, term: Term) -> None:
    while True:
        await asyncio.sleep(RENEW_S)
        try:
            async with asyncio.timeout(LEASE_S):
                await leadership.renew(term)
        except TimeoutError:
            raise NoLeader(f"the database did not answer within {LEASE_S:g} s") from None
