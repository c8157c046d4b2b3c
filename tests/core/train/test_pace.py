"""When the compute thread may go on: pauses, limits and ends, at a clock that only moves when somebody works."""

import threading

import pytest

from legion.errors import StepAborted
from legion.train.pace import Pace

WAIT_S = 30.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def between_in_a_thread(pace: Pace) -> tuple[threading.Thread, list[BaseException | None]]:
    """The compute thread at its border, and how it came out once it is joined."""
    outcome: list[BaseException | None] = []

    def compute() -> None:
        try:
            pace.between()
        except StepAborted as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    return thread, outcome


def test_without_limits_nothing_is_waited_for() -> None:
    pace = Pace()
    pace.between()
    assert not pace.given_up


def test_a_pause_holds_until_resume() -> None:
    held = threading.Event()
    pace = Pace(held.set)
    pace.pause()
    thread, outcome = between_in_a_thread(pace)
    assert held.wait(WAIT_S)
    assert outcome == []
    pace.resume()
    thread.join(WAIT_S)
    assert outcome == [None]


def test_who_rests_gives_up_at_once_however_long_the_step_might_take() -> None:
    held = threading.Event()
    pace = Pace(held.set)
    pace.pause()
    thread, outcome = between_in_a_thread(pace)
    assert held.wait(WAIT_S)
    pace.give_up(3600.0)
    thread.join(WAIT_S)
    assert isinstance(outcome[0], StepAborted)


def test_a_step_under_way_has_its_time() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.give_up(2.0)
    pace.give_up(5.0)  # who is in a hurry stays so
    pace.between()
    clock.now_s += 2.0
    with pytest.raises(StepAborted):
        pace.between()


def test_a_pause_after_the_contribution_waits_for_it() -> None:
    held = threading.Event()
    pace = Pace(held.set)
    pace.pause(after_contribution=True)
    pace.between()
    pace.contributed()
    thread, outcome = between_in_a_thread(pace)
    assert held.wait(WAIT_S)
    pace.resume()
    thread.join(WAIT_S)
    pace.contributed()  # the wish is fulfilled: it does not come back
    pace.between()
    assert outcome == [None]


def test_who_serves_goes_on_but_says_once_that_it_rests() -> None:
    held = []
    pace = Pace(lambda: held.append(True))
    pace.serve()
    assert pace.serving
    for _ in range(2):
        pace.between()
        pace.rests()
        pace.contributed()
    assert held == [True]
    pace.resume()
    assert not pace.serving
    pace.serve()
    pace.rests()
    assert held == [True, True]
    pace.give_up(3600.0)
    assert pace.given_up  # there is nothing under way to be finished


def test_who_serves_does_not_keep_to_a_limit_of_time() -> None:
    clock, held = Clock(), threading.Event()
    pace = Pace(held.set, clock)
    pace.limit(duty=0.05, threads=None)
    clock.now_s += 1000.0
    thread, outcome = between_in_a_thread(pace)
    pace.serve()  # ends a rest of 19,000 s
    thread.join(WAIT_S)
    clock.now_s += 1000.0  # that others computed for
    pace.between()
    assert outcome == [None]
    assert not held.is_set()
    pace.resume()
    pace.rests()  # late: nothing rests any more
    assert not held.is_set()


def test_a_limit_that_is_lifted_ends_its_rest() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.limit(duty=0.05, threads=None)
    clock.now_s += 1000.0
    thread, outcome = between_in_a_thread(pace)
    pace.limit(duty=1.0, threads=None)
    thread.join(WAIT_S)
    assert outcome == [None]


def test_waiting_for_others_is_no_work_to_rest_from() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.limit(duty=0.5, threads=None)
    clock.now_s += 1000.0
    pace.idled()
    pace.between()


@pytest.mark.parametrize("duty", [0.0, -1.0, 0.01])
def test_a_limit_never_stops_everything(duty: float) -> None:
    pace = Pace(clock=Clock())
    pace.limit(duty=duty, threads=None)
    pace.between()
