"""All that this worker sends and receives, whoever of its two processes does: counted, and held to the limits.

Invariant: the shares of agent and engine together are no more than the limit.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from legion.comm.bucket import BURST_S, Valve
from legion.comm.line import Line
from legion_client.engine.protocol import Moved, Rates
from legion_client.machine.policy import line_limits
from legion_client.machine.readings import Readings
from legion_client.machine.volume import MonthlyVolume
from legion_client.settings import Settings

SMALL_SHARE: Final = 1 / 16  # of the line, for the agent's questions while the engine trains
SHARED_BURST_S: Final = 0.04  # where others wait for each burst of ours, as many small ones delay them less
BULK_BYTES: Final = 1 << 18  # a transfer of the agent's that is larger gets half of the line


def shares(
    limit: float | None, *, engine: bool, bulk: bool, engine_moved_bytes: int = 0
) -> tuple[float | None, float | None]:
    """Of the agent and of the engine, in bytes/s. `bulk`: the agent moves much.

    `engine_moved_bytes`: since it told last, a quarter of a second before.
    """
    if limit is None:
        return None, None
    if not engine:
        return limit, None
    small = limit * SMALL_SHARE
    if not bulk:
        return small, limit - small
    # An engine that has little to send fills a good part of a small share once it has more.
    engines = limit / 2 if engine_moved_bytes >= small / 16 else small
    return limit - engines, engines


class Direction:
    """Of the agent's line. `changed` is called when what the engine may use has changed."""

    def __init__(self, valve: Valve, changed: Callable[[], None]) -> None:
        self.valve = valve
        self._changed = changed
        self._limit: float | None = None
        self._shared: float | None = None  # what the line bears beside others' use
        self.chosen: float | None = None  # of it what was chosen by hand, in bytes/s
        self._bulk = 0
        self._engine = False
        self._engine_moved_bytes = 0
        self.engines: float | None = None  # share, in bytes/s
        self.burst_s = BURST_S

    @property
    def most(self) -> float | None:
        """In bytes/s, of agent and engine together; None: no limit."""
        return self._limit

    def limit(self, bytes_per_s: float | None) -> None:
        self._limit = bytes_per_s
        self._divide()

    def share(self, bytes_per_s: float | None) -> None:
        """Not faster than this either, and evenly."""
        if bytes_per_s != self._shared:
            self._shared = bytes_per_s
            self._divide()

    def with_engine(self, engine: bool) -> None:
        self._engine = engine
        self._engine_moved_bytes = 0
        self._divide()

    def engine_moved(self, size_bytes: int) -> None:
        """Since it told last."""
        self._engine_moved_bytes = size_bytes
        self._divide()

    @contextlib.contextmanager
    def moving(self, size_bytes: int) -> Iterator[None]:
        """A transfer of so much is under way for the time of the block."""
        bulk = size_bytes >= BULK_BYTES
        self._bulk += bulk
        self._divide()
        try:
            yield
        finally:
            self._bulk -= bulk
            self._divide()

    def _divide(self) -> None:
        before = self.engines, self.burst_s
        limit = min((rate for rate in (self._limit, self._shared) if rate is not None), default=None)
        self.burst_s = BURST_S if self._shared is None else SHARED_BURST_S
        agents, self.engines = shares(
            limit, engine=self._engine, bulk=self._bulk > 0, engine_moved_bytes=self._engine_moved_bytes
        )
        self.valve.limit(agents, self.burst_s)
        if (self.engines, self.burst_s) != before:
            self._changed()


class Traffic:
    """One agent's. All methods on the loop."""

    def __init__(self, volume: MonthlyVolume | None = None) -> None:
        """`volume`: that all of it counts for."""
        self._volume = volume
        self._told = (0, 0)  # of the agent's line, to the volume
        self._sampled = (0, 0)  # of all, since the last sample
        self._engines = (0, 0)  # of engines, so far
        self.has_engine = False
        self.bursts = True  # may be sent and answered, to measure links with
        self.line = Line()
        self.upload = Direction(self.line.upload, self._changed)
        self.download = Direction(self.line.download, self._changed)
        # The engine that there is hears of its share.
        self.on_rates: Callable[[Rates], None] = lambda _rates: None

    @property
    def rates(self) -> Rates:
        """For the engine."""
        return Rates(
            upload_bytes_per_s=self.upload.engines,
            download_bytes_per_s=self.download.engines,
            burst_s=min(self.upload.burst_s, self.download.burst_s),
            house_upload_bytes_per_s=self.upload.chosen,
            house_download_bytes_per_s=self.download.chosen,
            bursts=self.bursts,
        )

    def limit(self, upload_bytes_per_s: float | None, download_bytes_per_s: float | None) -> None:
        self.upload.limit(upload_bytes_per_s)
        self.download.limit(download_bytes_per_s)

    def share(self, upload_bytes_per_s: float | None, download_bytes_per_s: float | None) -> None:
        """So that others who use the line are not delayed: see `sharing`."""
        self.upload.share(upload_bytes_per_s)
        self.download.share(download_bytes_per_s)

    def obey(self, settings: Settings, readings: Readings, *, bursts: bool) -> None:
        """The limits that are in force now. What was chosen by hand holds inside the house too."""
        self.limit(*line_limits(settings, readings))
        before = self.bursts, self.upload.chosen, self.download.chosen
        chosen = line_limits(settings, replace(readings, uplink_bytes_per_s=None))
        self.bursts, (self.upload.chosen, self.download.chosen) = bursts, chosen
        if before != (bursts, *chosen):
            self._changed()

    def with_engine(self, engine: bool) -> None:
        self.has_engine = engine
        self.upload.with_engine(engine)
        self.download.with_engine(engine)

    @property
    def totals(self) -> tuple[int, int]:
        """Bytes sent and received so far, by both."""
        line, (sent, received) = self.line, self._engines
        return line.upload.passed_bytes + sent, line.download.passed_bytes + received

    def moved(self, moved: Moved) -> None:
        """By the engine, since it told last."""
        self.upload.engine_moved(moved.sent_bytes)
        self.download.engine_moved(moved.received_bytes)
        self._engines = self._engines[0] + moved.sent_bytes, self._engines[1] + moved.received_bytes
        self._add(moved.sent_bytes, moved.received_bytes)

    def settle(self) -> None:
        """What the agent has moved enters the month's volume."""
        (sent, received), line = self._told, self.line
        self._told = line.upload.passed_bytes, line.download.passed_bytes
        self._add(self._told[0] - sent, self._told[1] - received)

    def since_last(self) -> tuple[int, int]:
        """Bytes sent and received since the last call."""
        self.settle()
        sampled, self._sampled = self._sampled, (0, 0)
        return sampled

    def _add(self, sent: int, received: int) -> None:
        self._sampled = self._sampled[0] + sent, self._sampled[1] + received
        if self._volume is not None and (sent or received):
            self._volume.add(sent_bytes=sent, received_bytes=received)

    def _changed(self) -> None:
        self.on_rates(self.rates)
