"""Leaving room on the line: the rule against a simulated line with a queue, and what must never slow anybody down."""

from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from legion_client.machine.congestion import (
    DRAINED_S,
    FLOOR_S,
    FREE_AFTER_S,
    LAN_S,
    LATE,
    LEAST_BYTES_PER_S,
    LEAST_CUT,
    LEAST_SETTLING_S,
    LOADED_BYTES_PER_S,
    MOST_CUT,
    NEWEST,
    Line,
    sampled,
)

LOOK_S = 0.25
SLOWED = (1 - 0.35 / DRAINED_S) * 1e6  # of 1 MB/s, by a queue of 0.35 s


@dataclass
class Queue:
    """A line with a queue before it, as home routers have. `others` of its rate is used by somebody else."""

    bytes_per_s: float
    base_s: float
    deepest_s: float = 0.3
    waiting: float = 0.0
    others: float = 0.0

    def carry(self, offered_bytes_per_s: float, seconds: float) -> float:
        """How fast the sender got through meanwhile; what the queue cannot hold is sent again by TCP."""
        room = self.bytes_per_s * (1 - self.others)
        self.waiting = min(max(0.0, self.waiting + (offered_bytes_per_s - room) * seconds), self.deepest_s * room)
        return min(offered_bytes_per_s, room) if self.waiting == 0 else room

    @property
    def round_trip_s(self) -> float:
        return self.base_s + self.waiting / (self.bytes_per_s * (1 - self.others))


def played(queue: Queue, line: Line, start_s: float, seconds: float) -> tuple[Line, list[float], list[float]]:
    """The line after it, round trips and rates that got through."""
    trips, rates = [], []
    for look in range(int(seconds / LOOK_S)):
        offered = 10 * queue.bytes_per_s if line.bytes_per_s is None else line.bytes_per_s
        rates.append(queue.carry(offered, LOOK_S))
        trips.append(queue.round_trip_s)
        line = sampled(line, queue.round_trip_s, rates[-1], start_s + look * LOOK_S)
    return line, trips, rates


@settings(deadline=None)  # 1,200 looks an example, on any machine
@given(st.floats(100e3, 100e6), st.floats(0.006, 0.3), st.floats(0.05, 2.0))
@example(bytes_per_s=100000.0, base_s=0.22169606822625135, deepest_s=1.0)
def test_round_trips_stay_within_twice_and_the_line_is_used(
    bytes_per_s: float, base_s: float, deepest_s: float
) -> None:
    queue = Queue(bytes_per_s, base_s, deepest_s)
    idle = sampled(Line(), base_s, 0.0, 1.0)
    line, trips, rates = played(queue, idle, 2.0, 300.0)
    after = sorted(trips[80:])  # 20 s: what the queue held must leave first
    most_s = 2 * base_s + FLOOR_S
    assert after[len(after) * 9 // 10] <= most_s + 1e-9
    assert sum(rates[80:]) / len(rates[80:]) >= 0.8 * bytes_per_s
    assert line.base_s == pytest.approx(base_s)


@given(st.floats(0.0, LAN_S), st.lists(st.floats(0, 5), max_size=30))
def test_a_lan_is_never_slowed_down(base_s: float, trips: list[float]) -> None:
    line = sampled(Line(), base_s, 1e9, 1.0)
    for look, trip_s in enumerate(trips):
        line = sampled(line, trip_s, 1e9, 2.0 + look)
        assert line.bytes_per_s is None


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.floats(0, LOADED_BYTES_PER_S, exclude_max=True), st.floats(-3, 100)), max_size=40
    )
)
def test_who_moves_little_is_not_the_cause(samples: list[tuple[float, float, float]]) -> None:
    line, now = Line(), 100.0
    for trip_s, moved, after_s in samples:
        now += after_s
        line = sampled(line, trip_s, moved, now)
        assert line.bytes_per_s is None


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1e9), st.floats(-1000, 1000)), max_size=60))
def test_whatever_comes_it_never_gets_slower_than_the_least(samples: list[tuple[float, float, float]]) -> None:
    line, now = Line(), 100.0
    for trip_s, moved, after_s in samples:
        now += after_s
        line = sampled(line, trip_s, moved, now)
        assert line.bytes_per_s is None or line.bytes_per_s >= LEAST_BYTES_PER_S


def slowed() -> Line:
    line = sampled(Line(), 0.05, 0.0, 1.0)
    for look in range(NEWEST):
        line = sampled(line, 0.4, 1e6, 2.0 + look)
    assert line.bytes_per_s == pytest.approx(SLOWED)
    return line


@pytest.mark.parametrize(("trip_s", "cut"), [(0.11, LEAST_CUT), (0.35, 0.3 / DRAINED_S), (5.0, MOST_CUT)])
def test_a_longer_queue_takes_more_of_the_rate(trip_s: float, cut: float) -> None:
    line = sampled(Line(), 0.05, 0.0, 1.0)
    for look in range(NEWEST):
        line = sampled(line, trip_s, 1e6, 2.0 + look)
    assert line.bytes_per_s == pytest.approx((1 - cut) * 1e6)


def test_what_a_busy_processor_does_not_use_is_not_taken_twice() -> None:
    for moved, expected in ((0.9 * SLOWED, SLOWED), (0.5 * SLOWED, LATE * 0.5 * SLOWED)):
        line = slowed()
        for look in range(NEWEST):
            line = sampled(line, 0.11, moved, line.settles_at + LOOK_S * (look + 1 - NEWEST))
        assert line.bytes_per_s == pytest.approx((1 - LEAST_CUT) * expected, rel=1e-3)


def test_it_grows_again_as_soon_as_the_queue_has_left() -> None:
    line = slowed()
    for look in range(NEWEST):
        line = sampled(line, 0.055, 0.8e6, 4.2 + look * LOOK_S)
    assert line.settles_at > 4.2 + NEWEST * LOOK_S
    assert line.bytes_per_s is not None
    assert line.bytes_per_s > SLOWED


def test_one_sample_that_came_late_changes_nothing() -> None:
    line = sampled(Line(), 0.05, 0.0, 1.0)
    for look in range(30):
        line = sampled(line, 3.0 if look % 3 else 0.06, 1e6, 2.0 + look)
    assert line.bytes_per_s is None


def test_while_the_queue_empties_it_is_not_slowed_again_and_again() -> None:
    line = slowed()
    at = 4.0
    while (at := at + LOOK_S) < 4.0 + LEAST_SETTLING_S:
        line = sampled(line, 0.4, 0.75e6, at)
        assert line.bytes_per_s == pytest.approx(SLOWED)
    for look in range(NEWEST):
        line = sampled(line, 0.4, 0.75e6, at + look * LOOK_S)
    assert line.bytes_per_s is not None
    assert line.bytes_per_s < SLOWED, "by now it should have emptied"


def test_after_a_while_without_load_there_is_no_limit() -> None:
    line = slowed()
    assert sampled(line, 0.05, 0.0, FREE_AFTER_S).bytes_per_s is not None
    assert sampled(line, 0.05, 0.0, FREE_AFTER_S + 10).bytes_per_s is None


def test_others_who_come_get_room_and_who_go_give_it_back() -> None:
    queue = Queue(2.5e6, 0.05)
    line, _, alone = played(queue, sampled(Line(), 0.05, 0.0, 1.0), 2.0, 120.0)
    queue.others = 0.5
    line, trips, beside = played(queue, line, 122.0, 120.0)
    queue.others = 0.0
    _, _, again = played(queue, line, 242.0, 120.0)
    assert sorted(trips[80:])[len(trips[80:]) * 8 // 10] <= 0.11
    assert sum(beside[80:]) / len(beside[80:]) >= 0.7 * 1.25e6
    assert sum(again[240:]) / len(again[240:]) >= 0.8 * 2.5e6 <= sum(alone[80:]) / len(alone[80:])
