"""The statistics export: one compressed file for each board, made when somebody asks and the one before is old."""

import asyncio
import contextlib
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from legion.accounts import Board
from legion.errors import StorageFailed
from legion_server.domain.standing import MFLOP_PER_CREDIT, credit_a_day
from legion_server.store.statistics import Fact, StatisticsStore

FRESH_S = 900.0  # whoever takes consent back is gone from the export after so long
LEVEL = 6  # of compression


@dataclass(frozen=True, slots=True)
class Export:
    """A file that stays as it is; the next one has another name."""

    path: Path
    etag: str  # of what is in it, so that nobody fetches the same again
    made_at: float  # s since 1970


class Statistics:
    """`folder` is this server's own; what an earlier process left there is made anew."""

    def __init__(self, store: StatisticsStore, folder: Path, clock: Callable[[], float]) -> None:
        self._store = store
        self._folder = folder
        self._clock = clock
        self._made: dict[Board, Export] = {}
        self._making: dict[Board, asyncio.Lock] = {}

    async def newest(self, board: Board) -> Export:
        """At most FRESH_S old. StorageFailed."""
        async with self._making.setdefault(board, asyncio.Lock()):
            known = self._made.get(board)
            if known is not None and 0 <= self._clock() - known.made_at < FRESH_S and known.path.exists():
                return known
            made = self._made[board] = await self._make(board)
            return made

    async def _make(self, board: Board) -> Export:
        now = self._clock()
        part = self._folder / f"{board}.part"
        try:
            await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
            etag = await self._write(part, board, now)
            path = self._folder / f"{board}-{etag}.jsonl.gz"
            await asyncio.to_thread(part.replace, path)
            for old in self._folder.glob(f"{board}-*.jsonl.gz"):
                if old != path:
                    old.unlink(missing_ok=True)
        except OSError as error:
            raise StorageFailed(f"the export of {board} cannot be written: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return Export(path, etag, now)

    async def _write(self, part: Path, board: Board, now: float) -> str:
        """The ETag."""
        digest = hashlib.sha256()
        with part.open("wb") as raw, gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as file:
            async for batch in self._store.batches(board):
                text = b"".join(_line(fact, now) for fact in batch)
                digest.update(text)
                await asyncio.to_thread(file.write, text)
        return digest.hexdigest()[:32]


def _line(fact: Fact, now: float) -> bytes:
    shown = {name: value for name, value in fact.items() if name not in ("key", "mflop", "recent")}
    shown["credit"] = fact["mflop"] / MFLOP_PER_CREDIT
    shown["credit_a_day"] = round(credit_a_day(fact["recent"], now), 3)
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
