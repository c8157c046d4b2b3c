"""Who may have how much of a relay: whatever happens in whatever order, what is counted in is counted out."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from legion.ids import WorkerId
from legion_server.relay.routes import DAY_S, Limits, Routes

WORKERS = [WorkerId(letter * 32) for letter in "abc"]
SMALL = Limits(half_open=3, worker_sessions=4, sessions=6, worker_day_bytes=1000.0)


class AnyOrder(RuleBasedStateMachine):
    """Against plain lists of what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = Routes(SMALL)
        self.arrived: list[str] = []
        self.calls: dict[str, WorkerId] = {}
        self.sessions: list[WorkerId] = []
        self.seats: dict[WorkerId, int] = {}
        self.now = 0.0
        self.nonces = 0

    @rule(source=st.sampled_from("xy"))
    def arrive(self, source: str) -> None:
        refused = self.routes.arrive(source)
        assert (refused is None) is (self.arrived.count(source) < SMALL.half_open)
        if refused is None:
            self.arrived.append(source)

    @precondition(lambda self: self.arrived)
    @rule(data=st.data())
    def depart(self, data: Any) -> None:
        source = data.draw(st.sampled_from(self.arrived))
        self.arrived.remove(source)
        self.routes.depart(source)

    @rule(worker=st.sampled_from(WORKERS), instance=st.sampled_from("pq"))
    def register(self, worker: WorkerId, instance: str) -> None:
        before = self.routes.seats.get(worker)
        registered = self.routes.register(worker, instance, "z")
        self.routes.admit(worker)
        assert registered.replaced == self.seats.get(worker)
        assert registered.doubled is (before is not None and before.instance != instance)
        self.seats[worker] = registered.number

    @rule(worker=st.sampled_from(WORKERS), number=st.integers(1, 12))
    def unregister(self, worker: WorkerId, number: int) -> None:
        self.routes.unregister(worker, number)
        if self.seats.get(worker) == number:
            del self.seats[worker]

    @rule(worker=st.sampled_from(WORKERS))
    def revoke(self, worker: WorkerId) -> None:
        found = self.routes.revoke([worker])
        assert found == ([worker] if worker in self.seats else [])
        if self.seats.pop(worker, None) is not None:
            assert self.routes.call(worker, "x", "-", self.now) == "revoked_name"

    @rule(worker=st.sampled_from(WORKERS))
    def call(self, worker: WorkerId) -> None:
        self.nonces += 1
        nonce = str(self.nonces)
        refused = self.routes.call(worker, "x", nonce, self.now)
        if refused is None:
            assert worker in self.seats
            self.calls[nonce] = worker
        if worker not in self.seats:
            assert refused in ("unknown_name", "revoked_name")

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), answers=st.booleans())
    def settle(self, data: Any, answers: bool) -> None:
        nonce = data.draw(st.sampled_from(sorted(self.calls)))
        worker = self.calls.pop(nonce)
        if answers:
            assert self.routes.answered(nonce) == worker
            self.sessions.append(worker)
        self.routes.withdraw(nonce)
        assert self.routes.answered(nonce) is None  # a nonce is good for once

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def end(self, data: Any) -> None:
        worker = data.draw(st.sampled_from(self.sessions))
        self.sessions.remove(worker)
        self.routes.ended(worker)

    @rule(worker=st.sampled_from(WORKERS), size=st.integers(0, 600), later_s=st.floats(0, DAY_S / 10))
    def spend(self, worker: WorkerId, size: int, later_s: float) -> None:
        self.now += later_s
        left = self.routes.left_bytes(worker, self.now)
        assert self.routes.spend(worker, size, self.now) is (left >= size)
        assert self.routes.left_bytes(worker, self.now) <= SMALL.worker_day_bytes
        self.routes.forget_rested(self.now)

    @invariant()
    def nothing_is_over_its_limit(self) -> None:
        counts = self.routes.sessions
        assert dict(counts) == {w: self.sessions.count(w) for w in set(self.sessions)}
        assert max(counts.values(), default=0) <= SMALL.worker_sessions
        assert counts.total() <= SMALL.sessions
        assert {w: s.number for w, s in self.routes.seats.items()} == self.seats
        assert {n: c.worker for n, c in self.routes.calls.items()} == self.calls
        for worker in WORKERS:
            assert list(self.calls.values()).count(worker) <= SMALL.half_open


TestAnyOrder = AnyOrder.TestCase


def test_a_budget_comes_back_over_a_day() -> None:
    routes = Routes(SMALL)
    assert routes.spend(WORKERS[0], 1000, 0.0)
    assert not routes.spend(WORKERS[0], 1, 0.0)
    assert routes.refusals["over_budget"] == 1
    assert routes.left_bytes(WORKERS[0], DAY_S / 2) == 499
    routes.forget_rested(2 * DAY_S)
    assert routes.left_bytes(WORKERS[0], 0.0) == 1000


def test_who_was_replaced_cannot_end_the_newer_registration() -> None:
    routes = Routes(SMALL)
    first = routes.register(WORKERS[0], "p", "x")
    second = routes.register(WORKERS[0], "q", "y")
    assert (second.replaced, second.doubled) == (first.number, True)
    assert routes.take_doubled() == (WORKERS[0],)
    assert routes.take_doubled() == ()
    routes.unregister(WORKERS[0], first.number)
    assert routes.call(WORKERS[0], "x", "n", 0.0) is None
