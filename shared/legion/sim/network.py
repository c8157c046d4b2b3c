"""A network of access links: who sends how much to whom, how long that takes, and what for.

Every computer has one link to the internet with its own rate up and down, and, if it stands beside others, one to their
local network. Transfers share links fairly: max-min (Bertsekas and Gallager, Data Networks, 6.5.2), which is what long
TCP streams come near to. Rates are what a program sees: the bytes of its sockets, TCP's and IP's headers taken off.
"""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from legion.comm.line import Line
from legion.errors import PeerLost
from legion.ids import WorkerId

Kind = Literal["weights", "gradients", "contribution", "serving", "checkpoint", "join", "control"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MESSAGE_BYTES: Final = 256  # around the values of one message: gRPC's and HTTP/2's headers and frames, TLS records
_DONE_BYTES: Final = 0.5  # less than this is left by rounding
_MEGABIT_BYTES: Final = 125_000


@dataclass(frozen=True, slots=True)
class Rate:
    """Mbit/s in both directions, and a half of the round trip."""

    down_mbit_s: float
    up_mbit_s: float
    one_way_s: float


LAN: Final = Rate(1000.0, 1000.0, 0.00025)


@dataclass(frozen=True, slots=True)
class Access:
    """Where a computer stands. Those at one `place` reach each other over their own network; "": alone."""

    internet: Rate
    place: str = ""
    local: Rate = LAN


@dataclass(slots=True)
class Traffic:
    """Bytes of one computer. By kind: values; texts and frames of all messages are `control`."""

    sent: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    received: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    internet_sent: int = 0
    internet_received: int = 0


def fair_rates(paths: NDArray[np.int64], capacity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Max-min fair rates of F flows over two links each: `paths` int[F, 2] into `capacity`, by progressive filling.

    Every flow has a link that is full and on which no other flow is faster.
    """
    rates = np.zeros(len(paths))
    free = np.ones(len(paths), bool)
    left = capacity.copy()
    while free.any():
        flows = np.bincount(paths[free].ravel(), minlength=capacity.size)
        share = np.divide(left, flows, out=np.full(left.size, np.inf), where=flows > 0)
        lowest = float(share.min())
        tight = share <= lowest * (1 + 1e-9)
        settled = free & tight[paths].any(axis=1)
        rates[settled] = lowest
        left -= lowest * np.bincount(paths[settled].ravel(), minlength=capacity.size)
        np.maximum(left, 0.0, out=left)
        free &= ~settled
    return rates


@dataclass(slots=True)
class Flow:
    """One transfer under way."""

    source: WorkerId
    target: WorkerId
    gone: "asyncio.Future[None]"  # its last byte has left


class Network:
    """All methods on the loop. `scale`: of bytes of values, to stand for a larger model; texts stay as they are."""

    def __init__(self, scale: float = 1.0) -> None:
        self._loop = asyncio.get_running_loop()
        self.scale = scale
        self._access: dict[WorkerId, Access] = {}
        self._ports: dict[tuple[WorkerId, str], int] = {}  # the first of two links: up, then down
        self._capacity = np.empty(0)  # bytes/s of each link
        self.traffic: dict[WorkerId, Traffic] = {}
        self._flows: list[Flow] = []
        self._paths = np.empty((0, 2), np.int64)
        self._left = np.empty(0)  # bytes of each flow
        self._rates = np.empty(0)
        self._counted_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._changed = False
        self._broken = False  # some flow ended before its last byte
        self._away: set[WorkerId] = set()
        self._lines: dict[WorkerId, Line] = {}

    def connect(self, worker: WorkerId, access: Access) -> None:
        """A computer that others can reach from now on; its traffic goes on where it stopped."""
        self._away.discard(worker)
        if worker in self._access:
            return
        self._access[worker] = access
        self.traffic[worker] = Traffic()
        for name, rate in (("internet", access.internet), ("local", access.local)):
            self._ports[worker, name] = self._capacity.size
            links = np.array([rate.up_mbit_s, rate.down_mbit_s]) * _MEGABIT_BYTES
            self._capacity = np.concatenate([self._capacity, links])

    def access(self, worker: WorkerId) -> Access:
        return self._access[worker]

    def line(self, worker: WorkerId) -> Line:
        """Who has precedence on its uplink."""
        return self._lines.setdefault(worker, Line())

    def disconnect(self, worker: WorkerId) -> None:
        """Its transfers, and whatever is sent to it, end with PeerLost."""
        self._away.add(worker)
        self._broken = True
        lost = [flow for flow in self._flows if worker in (flow.source, flow.target)]
        for flow in lost:
            if not flow.gone.done():
                flow.gone.set_exception(PeerLost(f"{worker} does not answer"))
        self._reschedule()

    def one_way_s(self, source: WorkerId, target: WorkerId) -> float:
        """A half of the round trip: the mean of both ends'."""
        name = self._way(source, target)
        ends = (self._rate(source, name), self._rate(target, name))
        return (ends[0].one_way_s + ends[1].one_way_s) / 2

    async def carry(
        self, source: WorkerId, target: WorkerId, kind: Kind, *, values_bytes: int = 0, text_bytes: int = 0
    ) -> None:
        """One message, from its first byte to the arrival of its last. `values_bytes`: of tensors."""
        values = round(values_bytes * self.scale)
        size = values + text_bytes + MESSAGE_BYTES
        self._require(source, target)
        name = self._way(source, target)
        self._count_message(source, target, name, kind, values, size)
        flow = Flow(source, target, self._loop.create_future())
        path = [self._ports[source, name], self._ports[target, name] + 1]
        self._count()
        self._flows.append(flow)
        self._paths = np.concatenate([self._paths, np.array([path], np.int64)])
        self._left = np.append(self._left, float(size))
        self._rates = np.append(self._rates, 0.0)
        self._reschedule()
        try:
            await flow.gone
        except asyncio.CancelledError:
            self._broken = True
            self._reschedule()
            raise
        await asyncio.sleep(self.one_way_s(source, target))
        self._require(source, target)

    def _count_message(self, source: WorkerId, target: WorkerId, name: str, kind: Kind, values: int, size: int) -> None:
        """At both ends when it sets out; what is lost on the way is little."""
        sender, receiver = self.traffic[source], self.traffic[target]
        for table in (sender.sent, receiver.received):
            table[kind] += values
            table["control"] += size - values
        if name == "internet":
            sender.internet_sent += size
            receiver.internet_received += size

    def _require(self, *workers: WorkerId) -> None:
        for worker in workers:
            if worker in self._away or worker not in self._access:
                raise PeerLost(f"{worker} does not answer")

    def _way(self, source: WorkerId, target: WorkerId) -> str:
        place = self._access[source].place
        return "local" if place and place == self._access[target].place else "internet"

    def _rate(self, worker: WorkerId, name: str) -> Rate:
        access = self._access[worker]
        return access.local if name == "local" else access.internet

    # Flows.

    def _reschedule(self) -> None:
        """Rates are computed once for all that changes at one moment."""
        if not self._changed:
            self._changed = True
            self._loop.call_soon(self._share)

    def _count(self) -> None:
        """What has been carried since the rates were computed."""
        now = self._loop.time()
        self._left -= self._rates * (now - self._counted_at)
        self._counted_at = now

    def _share(self) -> None:
        self._changed = False
        self._count()
        kept = self._left >= _DONE_BYTES
        for number in np.flatnonzero(~kept):
            flow = self._flows[number]
            if not flow.gone.done():
                flow.gone.set_result(None)
        if self._broken:
            self._broken = False
            kept &= np.array([not flow.gone.done() for flow in self._flows], bool)
        if not kept.all():
            self._flows = list(itertools.compress(self._flows, kept.tolist()))
            self._paths, self._left = self._paths[kept], self._left[kept]
        self._rates = fair_rates(self._paths, self._capacity)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flows:
            self._timer = self._loop.call_later(float((self._left / self._rates).min()), self._share)
