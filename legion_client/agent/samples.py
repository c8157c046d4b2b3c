"""Points for the graphs: an hour finely, a day and thirty days ever more coarsely, over restarts of the agent.

Every level is a ring. A level's point is the mean of what was sampled in its period; where nothing was known, nothing
is. The finest level lives in memory only: a point every ten seconds would wear the disk for an hour's picture.
"""

import logging
import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from legion_client.control.messages import Sample

logger = logging.getLogger(__name__)

PERIOD_S = 10.0  # of the finest level: how often `add` is called
# Seconds that a point stands for, and how many points are kept: 1 h, 24 h, 30 d.
LEVELS = ((PERIOD_S, 360), (120.0, 720), (3600.0, 720))
_FIGURES = tuple(name for name in Sample.model_fields if name != "at")


@dataclass
class _Level:
    period_s: float
    points: deque[Sample]
    open: list[Sample] = field(default_factory=list)  # of the period under way

    def add(self, sample: Sample) -> Sample | None:
        """The point that this sample closes, if it does."""
        closed = None
        if self.open and sample.at // self.period_s != self.open[0].at // self.period_s:
            closed = mean(self.open)
            self.points.append(closed)
            self.open = []
        self.open.append(sample)
        return closed


class Samples:
    """Belongs to one thread. A file that cannot be used costs the past, nothing else."""

    def __init__(self, path: Path) -> None:
        self._levels = [_Level(period_s, deque(maxlen=most)) for period_s, most in LEVELS]
        self._database = _open(path)
        for number, level in enumerate(self._levels):
            level.points.extend(self._read(number))

    def add(self, sample: Sample) -> None:
        for number, level in enumerate(self._levels):
            closed = level.add(sample)
            if closed is not None and number > 0:
                self._write(number, closed, oldest=level.points[0].at)

    def since(self, moment: float, most: int) -> Sequence[Sample]:
        """Oldest first, of the finest level that reaches back so far; thinned to at most `most` points."""
        newest = max((level.points[-1].at for level in self._levels if level.points), default=moment)
        reach = next(
            (n for n, (period_s, count) in enumerate(LEVELS) if newest - moment <= period_s * count), len(LEVELS) - 1
        )
        chosen: list[Sample] = []
        for level in self._levels[reach:]:  # the coarser ones know what was before
            begins = chosen[0].at if chosen else float("inf")
            chosen = [point for point in level.points if point.at < begins] + chosen
        return thinned([point for point in chosen if point.at >= moment], most)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()

    def _read(self, number: int) -> Iterable[Sample]:
        if self._database is None:
            return
        try:
            rows = self._database.execute(
                "SELECT sample FROM samples WHERE level = ? ORDER BY at", (number,)
            ).fetchall()
        except sqlite3.Error as error:
            logger.warning("samples cannot be read reason=%s", error)
            return
        for (text,) in rows:
            try:
                yield Sample.model_validate_json(text)
            except ValidationError:
                continue

    def _write(self, number: int, sample: Sample, oldest: float) -> None:
        if self._database is None:
            return
        try:
            with self._database:
                self._database.execute(
                    "INSERT OR REPLACE INTO samples VALUES (?, ?, ?)", (number, sample.at, sample.model_dump_json())
                )
                self._database.execute("DELETE FROM samples WHERE level = ? AND at < ?", (number, oldest))
        except sqlite3.Error as error:
            logger.warning("samples cannot be written reason=%s", error)


def mean(samples: Sequence[Sample]) -> Sample:
    """At the last one's moment; a figure that none of them knows is unknown."""
    figures: dict[str, float | None] = {}
    for name in _FIGURES:
        known = [value for sample in samples if (value := getattr(sample, name)) is not None]
        figures[name] = sum(known) / len(known) if known else None
    return Sample.model_validate({"at": samples[-1].at} | figures)


def thinned(samples: Sequence[Sample], most: int) -> Sequence[Sample]:
    """Means of neighbours, so that no peak is dropped unseen."""
    each = -(-len(samples) // most) if samples else 1
    return [mean(samples[start : start + each]) for start in range(0, len(samples), each)]


def _open(path: Path) -> sqlite3.Connection | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=1.0)
        with database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS samples (level INTEGER, at REAL, sample TEXT, PRIMARY KEY (level, at))"
            )
    except (sqlite3.Error, OSError) as error:
        logger.warning("samples are not kept path=%s reason=%s", path, error)
        return None
    return database
