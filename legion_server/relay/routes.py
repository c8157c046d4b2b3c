"""Who is connected to a relay, who is asked for, and how much anybody may. Pure: the time is always given.

Invariant: what is counted in (half-open connections, calls, sessions) is counted out exactly once, whatever happens to
it in between.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from legion.ids import WorkerId

Key = TypeVar("Key", bound=str)
DAY_S = 86_400.0

# Why a connection was closed; each is counted, and told to the coordinator.
Refusal = Literal[
    "malformed_hello",
    "slow_hello",
    "unknown_name",
    "revoked_name",
    "unknown_nonce",
    "worker_silent",
    "half_open_source",
    "half_open_worker",
    "sessions_worker",
    "sessions_relay",
    "over_budget",
    "refused_registration",
]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one source, one worker, and all together may have of a relay."""

    half_open: int = 16  # connections without a session, per source address and per worker
    worker_sessions: int = 256
    sessions: int = 4096
    worker_bytes_per_s: float = 25e6  # both directions together, as everything that is counted here
    bytes_per_s: float = 125e6
    worker_day_bytes: float = 500e9  # budget, refilled evenly over a day


@dataclass(frozen=True, slots=True)
class Seat:
    """One worker's control connection."""

    number: int  # grows with every registration, so that the end of an old one is told from the newest
    instance: str
    source: str


@dataclass(frozen=True, slots=True)
class Call:
    """A caller who waits for the worker to answer."""

    worker: WorkerId
    source: str


@dataclass(frozen=True, slots=True)
class Registered:
    """`doubled`: another program with the same key was here, and may be still."""

    number: int
    replaced: int | None = None
    doubled: bool = False


@dataclass(slots=True)
class _Budget:
    left: float
    at: float


@dataclass(slots=True)
class Routes:
    """All of it is in memory: a relay that starts anew is registered with anew."""

    limits: Limits = field(default_factory=Limits)
    seats: dict[WorkerId, Seat] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)  # by nonce
    revoked: set[WorkerId] = field(default_factory=set)
    doubled: set[WorkerId] = field(default_factory=set)  # since `take_doubled`
    doubled_count: int = 0
    sessions: Counter[WorkerId] = field(default_factory=Counter)
    refusals: Counter[Refusal] = field(default_factory=Counter)
    _sources: Counter[str] = field(default_factory=Counter)
    _waiting: Counter[WorkerId] = field(default_factory=Counter)
    _budgets: dict[WorkerId, _Budget] = field(default_factory=dict)
    _registrations: int = 0

    # Half-open connections, of anybody.

    def arrive(self, source: str) -> Refusal | None:
        """A connection that has not said what it wants. `depart` ends that, unless it was refused."""
        if self._sources[source] >= self.limits.half_open:
            return self.refuse("half_open_source")
        self._sources[source] += 1
        return None

    def depart(self, source: str) -> None:
        _less(self._sources, source)

    def refuse(self, why: Refusal) -> Refusal:
        self.refusals[why] += 1
        return why

    # Workers.

    def register(self, worker: WorkerId, instance: str, source: str) -> Registered:
        """The newest wins: the one before is most often the same program's, over a line that is no more.

        Refusing the new one would lock a worker out until its old connection counts as silent.
        """
        before = self.seats.get(worker)
        self._registrations += 1
        self.seats[worker] = Seat(self._registrations, instance, source)
        if before is None:
            return Registered(self._registrations)
        doubled = before.instance != instance
        if doubled:
            self.doubled.add(worker)
            self.doubled_count += 1
        return Registered(self._registrations, replaced=before.number, doubled=doubled)

    def unregister(self, worker: WorkerId, number: int) -> None:
        """Does nothing for a registration that was replaced."""
        seat = self.seats.get(worker)
        if seat is not None and seat.number == number:
            del self.seats[worker]

    def revoke(self, workers: Iterable[WorkerId]) -> list[WorkerId]:
        """Those of them who are connected, whose connections are to be ended."""
        found = [worker for worker in workers if worker in self.seats]
        self.revoked.update(found)
        for worker in found:
            del self.seats[worker]
        return found

    def admit(self, worker: WorkerId) -> None:
        """The coordinator vouches for it (again)."""
        self.revoked.discard(worker)

    def take_doubled(self) -> tuple[WorkerId, ...]:
        """Workers whose key two programs have used since the last time."""
        found, self.doubled = tuple(sorted(self.doubled)), set()
        return found

    # Callers.

    def call(self, worker: WorkerId, source: str, nonce: str, now: float) -> Refusal | None:
        """A caller asks for a worker. `answered` or `withdraw` follows, unless it was refused."""
        why = self._why_not(worker, now)
        if why is not None:
            return self.refuse(why)
        self.calls[nonce] = Call(worker, source)
        self._waiting[worker] += 1
        return None

    def _why_not(self, worker: WorkerId, now: float) -> Refusal | None:
        if worker not in self.seats:
            return "revoked_name" if worker in self.revoked else "unknown_name"
        if self._waiting[worker] >= self.limits.half_open:
            return "half_open_worker"
        if self.sessions[worker] + self._waiting[worker] >= self.limits.worker_sessions:
            return "sessions_worker"
        if self.sessions.total() + self._waiting.total() >= self.limits.sessions:
            return "sessions_relay"
        return None if self.left_bytes(worker, now) > 0 else "over_budget"

    def withdraw(self, nonce: str) -> None:
        """The worker did not answer in time, or the caller has gone."""
        call = self.calls.pop(nonce, None)
        if call is not None:
            _less(self._waiting, call.worker)

    def answered(self, nonce: str) -> WorkerId | None:
        """A session begins, which `ended` ends; None (and counted) where nobody waits under this nonce."""
        call = self.calls.pop(nonce, None)
        if call is None:
            self.refuse("unknown_nonce")
            return None
        _less(self._waiting, call.worker)
        self.sessions[call.worker] += 1
        return call.worker

    def ended(self, worker: WorkerId) -> None:
        _less(self.sessions, worker)

    # Bytes.

    def spend(self, worker: WorkerId, size_bytes: int, now: float) -> bool:
        """Whether the worker's budget bears it; it is taken off in any case."""
        left = self.left_bytes(worker, now) - size_bytes
        self._budgets[worker] = _Budget(left, now)
        if left < 0:
            self.refuse("over_budget")
        return left >= 0

    def left_bytes(self, worker: WorkerId, now: float) -> float:
        """Of the worker's budget."""
        whole = self.limits.worker_day_bytes
        budget = self._budgets.get(worker)
        if budget is None:
            return whole
        return min(whole, budget.left + max(0.0, now - budget.at) * whole / DAY_S)

    def forget_rested(self, now: float) -> None:
        """Budgets that are whole again need no memory."""
        whole = self.limits.worker_day_bytes
        self._budgets = {w: b for w, b in self._budgets.items() if self.left_bytes(w, now) < whole}


def _less(counter: Counter[Key], key: Key) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
