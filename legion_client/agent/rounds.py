"""Between an engine that takes part in rounds and the server: news one way, reports and updates the other."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from legion.errors import LegionError, NotFound, Refused, ReportInvalid, RoundConflict, StorageFailed
from legion.ids import ClusterId
from legion.messages import HeartbeatReply
from legion.rounds import Handover, RootReport
from legion_client.agent.backoff import persistently
from legion_client.agent.coordinator import Coordinator
from legion_client.engine.protocol import UPDATES, Command, RoundNews, SpanReduced, UpdateHere, UpdateWanted

logger = logging.getLogger(__name__)

NUDGES = ("round_plan", "round", "round_term", "cluster_lost", "gap")  # events after which there is news
BEHIND = 2  # rounds: one is committed a moment before everybody moves to it
LAST_WORDS_S = 5.0  # of an engine whose cluster has ended
Say = Callable[[Command], None]


class RoundRelay:
    """For one plan; its parts run as tasks of the agent, until they are cancelled."""

    def __init__(self, server: Coordinator, folder: Path, say: Say) -> None:
        self._server = server
        self._folder = folder
        self._say = say
        self._since = 0
        self._due = asyncio.Event()
        self._known: tuple[int, int] = (-1, 0)  # round and revision of the newest plan
        self._gone: tuple[ClusterId, ...] = ()
        self._spans: deque[SpanReduced] = deque()
        self._roots: deque[RootReport] = deque()
        self._handovers: asyncio.Queue[Handover] = asyncio.Queue()
        self._lost: asyncio.Queue[str] = asyncio.Queue()  # digests of updates that storage has lost, and that lie here
        self._bringing: set[str] = set()  # those, and the one under way
        self._wanted: asyncio.Queue[UpdateWanted] = asyncio.Queue()
        self._waits = asyncio.Event()
        self._delivered = asyncio.Condition()
        self._begun = False
        self._entered = 0
        self.anchor = -1

    def begin(self, anchor: int) -> None:
        """The engine trains from this anchor on: everything since then is news to it."""
        self._since, self._begun, self._entered = anchor, True, anchor
        self._due.set()

    @property
    def catching_up(self) -> tuple[int, int] | None:
        """The engine has applied so many of so many rounds that it had missed; None once it is where the log is."""
        at = max(self.anchor, self._entered)
        if not self._begun or self._since - at < BEHIND:
            return None
        return at - self._entered, self._since - self._entered

    def nudge(self) -> None:
        self._due.set()

    def seen(self, reply: HeartbeatReply) -> None:
        """What a heartbeat's answer says, in case an event was lost."""
        if not self._begun:
            return
        if (reply.round, reply.revision) != self._known:
            self._due.set()
        if reply.gone != self._gone:
            self._gone = reply.gone
            self._say(RoundNews(gone=reply.gone))
        for sha256 in reply.wanted:
            if sha256 not in self._bringing and self._kept(sha256).exists():
                self._bringing.add(sha256)
                self._lost.put_nowait(sha256)

    def _kept(self, sha256: str) -> Path:
        return self._folder / UPDATES / sha256

    # From the engine.

    def reduced(self, report: SpanReduced) -> None:
        self._spans.append(report)
        self._waits.set()

    def reached(self, report: RootReport) -> None:
        self.anchor = report.round
        self._roots.append(report)
        self._waits.set()

    def handed_over(self, handover: Handover) -> None:
        self._handovers.put_nowait(handover)

    def wanted(self, update: UpdateWanted) -> None:
        self._wanted.put_nowait(update)

    async def drained(self) -> None:
        """Returns once every report and update is with the server."""
        async with self._delivered:
            await self._delivered.wait_for(lambda: not self._spans and not self._roots)
        await self._handovers.join()

    async def last_words(self) -> None:
        """Returns once the server knows what we have handed over, or too late."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._handovers.join()

    # Tasks.

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """Each to run until it is cancelled."""
        return [self._follow(), self._deliver(), self._hand_over(), self._download(), self._restore()]

    async def _follow(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            page = await persistently("rounds", self._server.rounds, self._since)
            self._say(RoundNews(plans=page.plans, records=page.records, gone=self._gone))
            if page.records:
                self._since = page.records[-1].round + 1
                self._due.set()  # there may be more
            if page.plans:
                newest = max(page.plans, key=lambda plan: (plan.round, plan.revision))
                self._known = newest.round, newest.revision

    async def _deliver(self) -> None:
        while True:
            await self._waits.wait()
            while self._spans or self._roots:
                if self._spans:
                    await self._deliver_span(self._spans[0])
                    self._spans.popleft()
                else:
                    await self._deliver_root(self._roots[0])
                    self._roots.popleft()
            self._waits.clear()
            async with self._delivered:
                self._delivered.notify_all()

    async def _hand_over(self) -> None:
        """Beside the reports: the server must hear of it before it hears that we are gone."""
        while True:
            handover = await self._handovers.get()
            try:
                await persistently("handover", self._server.hand_over, handover)
            except LegionError as error:
                if not _is_past(error):
                    raise
                logger.warning("handover not taken round=%d why=%s", handover.round, error)
            self._handovers.task_done()

    async def _deliver_root(self, report: RootReport) -> None:
        try:
            await persistently("digest of an anchor", self._server.report_root, report)
        except LegionError as error:
            if not _is_past(error):
                raise
            logger.warning("digest of an anchor not taken round=%d why=%s", report.round, error)

    async def _deliver_span(self, reduced: SpanReduced) -> None:
        report = reduced.report
        try:
            await persistently("reduced span", self._server.report_span, report)
            if not report.audit:
                await persistently("update", self._server.upload_update, report.digest, report.size_bytes, reduced.path)
        except LegionError as error:
            if not _is_past(error):
                raise
            logger.warning("update not taken round=%d span=%d why=%s", report.round, report.span, error)
        except FileNotFoundError:
            # The engine keeps what may still be asked for; a round this long ago has its update from another term.
            logger.warning("update gone before it was taken round=%d span=%d", report.round, report.span)

    async def _restore(self) -> None:
        """Beside the reports, which must not wait for it."""
        while True:
            sha256 = await self._lost.get()
            await self._bring_back(sha256)
            self._bringing.discard(sha256)

    async def _bring_back(self, sha256: str) -> None:
        """If it is still here, and as it was: others may have it too."""
        path = self._kept(sha256)
        try:
            size_bytes = (await asyncio.to_thread(path.stat)).st_size
            await persistently("lost update", self._server.upload_update, sha256, size_bytes, path)
        except FileNotFoundError:
            logger.info("lost update is here no more sha256=%s", sha256[:12])
        except LegionError as error:
            if not (_is_past(error) or isinstance(error, ReportInvalid)):
                raise
            logger.warning("lost update not taken sha256=%s why=%s", sha256[:12], error)

    async def _download(self) -> None:
        while True:
            wanted = await self._wanted.get()
            path = self._folder / f"update-{wanted.sha256}"
            try:
                await _write(path, self._server.download(f"/blobs/{wanted.sha256}")(0))
            except StorageFailed:
                raise  # our own disk: waiting frees none
            except LegionError as error:
                logger.info("update not in storage sha256=%s why=%s", wanted.sha256[:12], error)
                self._say(UpdateHere(sha256=wanted.sha256, path=None))
            else:
                self._say(UpdateHere(sha256=wanted.sha256, path=path))


def _is_past(error: LegionError) -> bool:
    """What it is about has gone meanwhile: the term, the round, or with a member of it our cluster. The log goes on."""
    return isinstance(error, RoundConflict | NotFound) or type(error) is Refused  # not those that revoke us


async def _write(path: Path, chunks: AsyncIterator[bytes]) -> None:
    try:
        with path.open("wb") as file:
            async for chunk in chunks:
                file.write(chunk)
    except OSError as error:
        await asyncio.to_thread(path.unlink, missing_ok=True)
        raise StorageFailed(f"{path} cannot be written: {error.strerror}") from error
