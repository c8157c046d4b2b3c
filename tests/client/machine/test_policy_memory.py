"""Rules that remember: heat, the memory of cards, readings that tremble, clocks that jump."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_client.machine.hysteresis import SLOWEST, Latch, Pace
from legion_client.machine.policy import GAP_S, Pause, Run, decide
from legion_client.machine.presence import State
from legion_client.machine.readings import GpuReading, Readings
from legion_client.machine.reasons import Reason, why
from tests.client.machine.polite_guest import CARD, GIB, NOW, QUIET, Watch, first, reasons_of, with_values

FREE = 512 * 10**6


def with_card(**values: object) -> Readings:
    return replace(QUIET, gpus=(replace(CARD, **values),))  # type: ignore[arg-type]


def share_of(watch: Watch, readings: Readings, after_s: float = 1.0) -> float:
    decision = watch.see(readings, after_s)
    assert isinstance(decision, Run)
    return decision.limits.gpus[0].share if decision.limits.gpus else 0.0


def test_a_warm_card_slows_down_before_it_pauses() -> None:
    watch = Watch()
    assert share_of(watch, with_card(celsius=78)) == 1.0
    assert [share_of(watch, with_card(celsius=79), 10) for _ in range(5)] == [0.8, 0.6, 0.4, 0.3, 0.3]
    decision = watch.see(with_card(celsius=83))
    assert reasons_of(decision) == [Reason.GPU_WARM]
    assert why(decision.reasons[0]).sentence == "Graphics card 0 is at 83 °C: it runs at 30 % of its speed."
    hot = watch.see(with_card(celsius=83.5))
    assert isinstance(hot, Run)
    assert (hot.limits.gpus, hot.free_gpus) == ((), ())
    assert reasons_of(hot) == [Reason.GPU_HOT]
    assert why(hot.reasons[0]).sentence == "Graphics card 0 is at 84 °C: it waits until it is below 75 °C."
    assert reasons_of(watch.see(with_card(celsius=75.1))) == [Reason.GPU_HOT]
    assert [share_of(watch, with_card(celsius=70)) for _ in range(61)] == [0.0] * 60 + [1.0]


def test_a_hot_processor_slows_and_stops_cards_too() -> None:
    watch = Watch()
    assert share_of(watch, replace(QUIET, cpu_celsius=84)) == 0.8
    warm = watch.see(replace(QUIET, cpu_celsius=84))
    assert isinstance(warm, Run)
    assert warm.limits.cpu_share == 0.8
    assert reasons_of(warm) == [Reason.CPU_WARM]
    assert isinstance(watch.see(replace(QUIET, cpu_celsius=91)), Pause)


def test_a_sensor_that_breaks_while_it_is_hot_does_not_stop_for_ever() -> None:
    for unknown in (None, float("nan"), float("inf")):
        watch = Watch()
        assert isinstance(watch.see(replace(QUIET, cpu_celsius=99)), Pause)
        assert watch.seconds_until(Run, replace(QUIET, cpu_celsius=unknown)) == 61


def test_others_get_the_memory_of_a_card_when_they_need_it() -> None:
    watch = Watch()
    started = watch.see(QUIET)
    assert isinstance(started, Run)
    assert started.limits.gpus[0].memory == 0.9
    # We hold 22 of 24 GiB: half a GB must stay free.
    edge = 24 * GIB - 22 * GIB - FREE
    held = with_card(engine_memory_bytes=22 * GIB, memory_of_others_bytes=edge)
    assert share_of(watch, held) == 1.0
    wanted = watch.see(with_card(engine_memory_bytes=22 * GIB, memory_of_others_bytes=edge + 1))
    assert isinstance(wanted, Run)
    assert (wanted.limits.gpus, wanted.free_gpus) == ((), (0,))
    assert reasons_of(wanted) == [Reason.GPU_MEMORY]
    # What was there before is not enough: others may need as much again.
    assert all(share_of(watch, held) == 0 for _ in range(200))
    calm = with_card(engine_memory_bytes=22 * GIB, memory_of_others_bytes=edge - FREE)
    assert [share_of(watch, calm) for _ in range(61)] == [0.0] * 60 + [1.0]


def test_what_we_may_take_of_a_card_leaves_others_room_to_grow() -> None:
    small = {"memory_bytes": 8 * GIB, "memory_of_others_bytes": 3 * GIB}
    watch = Watch()
    decision = watch.see(with_card(**small))
    assert isinstance(decision, Run)
    granted = decision.limits.gpus[0].memory
    assert granted == round((5 * GIB - 2 * FREE) / (8 * GIB), 3)
    # Under the engine it does not change, and others may grow by half a GB.
    grown = watch.see(with_card(**small | {"memory_of_others_bytes": 3 * GIB + FREE}))
    assert isinstance(grown, Run)
    assert grown.limits.gpus[0].memory == granted
    more = watch.see(with_card(**small | {"memory_of_others_bytes": 3 * GIB + FREE + 1}))
    assert Reason.GPU_MEMORY in reasons_of(more)


def test_a_moment_without_a_reading_changes_no_grant() -> None:
    watch = Watch()
    granted = [
        watch.see(with_card(memory_bytes=8 * GIB, memory_of_others_bytes=others))
        for others in (3 * GIB, None, 3 * GIB + FREE)
    ]
    assert all(isinstance(decision, Run) for decision in granted)
    assert granted[0] == granted[1] == granted[2]


def test_memory_that_is_short_is_freed_at_once() -> None:
    decision = first(replace(QUIET, engine_memory_bytes=31 * GIB))
    assert isinstance(decision, Pause)
    assert decision.free_memory
    assert decision.free_gpus == (0,)
    battery = first(replace(QUIET, on_battery=True))
    assert isinstance(battery, Pause)
    assert not battery.free_memory


def test_a_card_with_too_little_left_is_not_begun_with() -> None:
    full = with_card(memory_bytes=8 * GIB, memory_of_others_bytes=7 * GIB)
    decision = first(full)
    assert isinstance(decision, Run)
    assert decision.limits.gpus == ()
    kept = first(full, with_values(graphics__yield_memory=False))
    assert isinstance(kept, Run)
    assert kept.limits.gpus[0].memory == 0.9


def test_one_card_of_two_yields() -> None:
    other = GpuReading(1, "Other", memory_bytes=8 * GIB, memory_of_others_bytes=8 * GIB)
    decision = first(replace(QUIET, gpus=(CARD, other)))
    assert isinstance(decision, Run)
    assert [card.index for card in decision.limits.gpus] == [0]
    assert decision.free_gpus == (1,)


@given(st.lists(st.booleans(), min_size=1, max_size=400), st.sampled_from([0.0, 30.0, 60.0]), st.floats(0.1, 20))
def test_a_latch_changes_rarely(conditions: list[bool], fall_s: float, step_s: float) -> None:
    latch, at, changes = Latch(), 0.0, [(False, 0.0)]
    for holds in conditions:
        at += step_s
        after = latch.after(holds, step_s, 0.0, fall_s)
        if after.on != latch.on:
            changes.append((after.on, at))
        latch = after
    offs = [when for on, when in changes[1:] if not on]
    assert all(later - earlier >= fall_s for earlier, later in itertools.pairwise(offs))
    for (on, since), (_, until) in itertools.pairwise(changes):
        assert not on or until - since >= fall_s


# A reading that trembles at its limit, by the attribute it is of.
TREMBLING = {
    "cpu_celsius": (89.5, 90.5),
    "idle_s": (179.0, 181.0),
    "free_disk_bytes": (5 * 10**9 - 1, 5 * 10**9 + 1),
    "on_battery": (False, True),
    "full_screen": (False, True),
    "metered": (None, True),
    "engine_memory_bytes": (19 * GIB, 20 * GIB),
}


@pytest.mark.parametrize("name", TREMBLING)
@settings(max_examples=12, deadline=None)
@given(st.lists(st.booleans(), min_size=180, max_size=240))
def test_a_trembling_reading_changes_the_decision_once_a_minute_at_most(name: str, sides: list[bool]) -> None:
    watch = Watch(with_values(idle__only=True))
    resumed: list[float] = []
    before: bool | None = None
    for side in sides:
        paused = isinstance(watch.see(replace(QUIET, **{name: TREMBLING[name][side]})), Pause)
        if before and not paused:
            resumed.append(watch.now.timestamp())
        before = paused
    quiet_s = 5 if name == "idle_s" else 60
    assert all(later - earlier > quiet_s for earlier, later in itertools.pairwise(resumed))


@given(st.lists(st.sampled_from([70.0, 76.0, 79.0, None]), min_size=1, max_size=200))
def test_a_pace_takes_one_step_in_ten_seconds(temperatures: list[float | None]) -> None:
    pace, shares = Pace(), [1.0]
    for celsius in temperatures:
        pace = pace.after(celsius, 78, 1.0)
        shares.append(pace.share)
        assert SLOWEST <= pace.share <= 1
    steps = [place for place, (a, b) in enumerate(itertools.pairwise(shares)) if a != b]
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(steps))


def test_a_clock_that_jumps_neither_ends_nor_prolongs_the_quiet() -> None:
    watch = Watch()
    watch.see(replace(QUIET, on_battery=True))
    watch.see(QUIET)
    # A year ahead, as after a long sleep: it was not watched, so it counts as half a minute.
    assert isinstance(watch.see(QUIET, 365 * 86400), Pause)
    # Two years back: nothing of the quiet so far is lost.
    assert isinstance(watch.see(QUIET, -2 * 365 * 86400), Pause)
    assert watch.seconds_until(Run, QUIET) == 60 - GAP_S


def test_deciding_twice_at_the_same_moment_changes_nothing() -> None:
    state = State()
    readings = replace(QUIET, on_battery=True, cpu_celsius=85, gpus=(replace(CARD, celsius=80),))
    first_time, state = decide(with_values(), state, readings, NOW)
    second_time, again = decide(with_values(), state, readings, NOW)
    assert (first_time, state) == (second_time, again)
