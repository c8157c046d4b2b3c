"""What holds of every decision, whatever sensors say and volunteers decide."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from legion_client.machine.policy import Decision, Pause, Run, decide
from legion_client.machine.presence import State
from legion_client.machine.readings import GpuReading, Readings
from legion_client.machine.reasons import Active, Reason, why
from legion_client.machine.rules import program_name
from legion_client.settings import Settings, describe
from tests.client.machine.polite_guest import NOW, QUIET, with_values

BYTES = st.none() | st.integers(0, 2**45)
ANY_FLOAT = st.none() | st.floats() | st.floats(0, 120)
SWITCH = st.none() | st.booleans()
NAMES = st.sampled_from(["blender", "obs", "Game.exe", "/usr/bin/ffmpeg", "ä"])
CARDS = st.builds(
    GpuReading,
    index=st.integers(0, 3),
    name=st.text("Xä 4", max_size=5),
    celsius=ANY_FLOAT,
    memory_bytes=BYTES,
    memory_of_others_bytes=BYTES,
    engine_memory_bytes=BYTES,
    lost=st.booleans(),
)
READINGS = st.builds(
    Readings,
    idle_s=ANY_FLOAT,
    on_battery=SWITCH,
    battery_percent=ANY_FLOAT,
    cpu_celsius=ANY_FLOAT,
    cpu_load_of_others=st.none() | st.floats() | st.floats(0, 1),
    memory_bytes=BYTES,
    memory_of_others_bytes=BYTES,
    engine_memory_bytes=BYTES,
    physical_cores=st.none() | st.integers(0, 512),
    free_disk_bytes=BYTES,
    used_disk_bytes=BYTES,
    disk_bytes=BYTES,
    programs=st.frozensets(NAMES.map(program_name), max_size=2),
    full_screen=SWITCH,
    game=SWITCH,
    metered=SWITCH,
    month_bytes=BYTES,
    uplink_bytes_per_s=ANY_FLOAT,
    gpus=st.lists(CARDS, max_size=3, unique_by=lambda card: card.index).map(tuple),
    gpu_problem=st.none() | st.just("broken."),
)
MODES = st.sampled_from(["auto", "always", "never"])
UNTIL = st.none() | st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
HOURS = st.lists(st.sampled_from(["00:00-24:00", "22:00-07:00", "12:00-12:30", "00:00-00:01"]), max_size=2).map(tuple)
PERCENT = st.integers(1, 100)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "idle__only": st.booleans(),
    "idle__minutes": st.integers(1, 1440),
    "processor__enabled": st.booleans(),
    "processor__cores_in_use_percent": PERCENT,
    "processor__spare_cores": st.integers(0, 1024),
    "processor__busy_percent": st.integers(0, 100),
    "graphics__enabled": st.booleans(),
    "graphics__in_use": st.booleans(),
    "graphics__excluded": st.lists(st.integers(0, 3), max_size=2),
    "graphics__memory_percent": PERCENT,
    "graphics__yield_memory": st.booleans(),
    "memory__in_use_percent": PERCENT,
    "power__pause_on_battery": st.booleans(),
    "power__minimum_charge_percent": st.integers(0, 100),
    "programs__exclusive": st.lists(NAMES, max_size=2),
    "programs__exclusive_graphics": st.lists(NAMES, max_size=2),
    "programs__pause_full_screen": st.booleans(),
    "programs__pause_games": st.booleans(),
    "programs__resume_after_s": st.integers(0, 3600),
    "schedule__enabled": st.booleans(),
    "schedule__monday": HOURS,
    "network__pause_when_metered": st.booleans(),
    "network__month_gb": st.sampled_from([0, 0.5, 50]),
    "disk__most_gb": st.sampled_from([0, 20]),
    "disk__least_free_gb": st.sampled_from([0, 5]),
    "modes__paused": st.booleans(),
    "modes__paused_until": UNTIL,
    "modes__cpu": MODES,
    "modes__cpu_until": UNTIL,
    "modes__gpu": MODES,
    "modes__gpu_until": UNTIL,
    "modes__network": MODES,
}
CHOSEN = st.fixed_dictionaries({}, optional=VALUES).map(lambda values: with_values(**values))
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
# Readings that stop something, whatever else is there.
CAUSES: dict[Reason, dict[str, Any]] = {
    Reason.BATTERY: {"on_battery": True},
    Reason.FULL_SCREEN: {"full_screen": True},
    Reason.GAME: {"game": True},
    Reason.METERED: {"metered": True},
    Reason.CPU_HOT: {"cpu_celsius": 111.0},
    Reason.DISK_FULL: {"free_disk_bytes": 0},
    Reason.EXCLUSIVE_PROGRAM: {"programs": frozenset({"blender", "obs"})},
    Reason.VOLUME_USED: {"month_bytes": 2**60},
    Reason.DISK_SHARE: {"used_disk_bytes": 2**60},
}


def reasons_of(decision: Decision) -> set[Reason]:
    return {one.reason for one in decision.reasons}


@settings(max_examples=100, deadline=None)
@given(CHOSEN, st.lists(st.tuples(READINGS, st.floats(-100, 4000)), min_size=1, max_size=4), MOMENTS)
def test_every_decision_is_whole(chosen: Settings, course: list[tuple[Readings, float]], now: datetime) -> None:
    state = State()
    for readings, after_s in course:
        now += timedelta(seconds=after_s)
        decision, following = decide(chosen, state, readings, now)
        assert (decision, following) == decide(chosen, state, readings, now)
        check(decision, readings)
        state = following


def check(decision: Decision, readings: Readings) -> None:
    cards = {card.index for card in readings.gpus}
    assert list(decision.reasons) == sorted(decision.reasons, key=lambda one: one.importance)
    for one in decision.reasons:
        told = why(one)
        assert "{" not in told.sentence
        assert told.setting is None or told.setting in describe()
        assert one.gpu is None or one.gpu in cards
    assert set(decision.free_gpus) <= cards
    if isinstance(decision, Pause):
        assert any(one.rule.stops for one in decision.reasons)
        return
    limits = decision.limits
    assert limits.on_cpu or limits.gpus
    assert 1 <= limits.cpu_threads <= max(1, readings.physical_cores or 1)
    assert 0 < limits.cpu_share <= 1
    assert {card.index for card in limits.gpus} <= cards - set(decision.free_gpus)
    assert all(0 < card.share <= 1 and 0 < card.power <= 1 and 0 <= card.memory <= 1 for card in limits.gpus)
    assert limits.upload_bytes_per_s is None or limits.upload_bytes_per_s > 0
    stopped = frozenset().union(
        *(one.rule.stops for one in decision.reasons if one.rule.always_too and one.gpu is None)
    )
    assert "network" not in stopped
    assert not limits.on_cpu or "cpu" not in stopped
    assert not limits.gpus or "gpu" not in stopped


@settings(max_examples=100, deadline=None)
@given(CHOSEN, READINGS, MOMENTS, st.sampled_from(sorted(CAUSES)))
def test_one_more_cause_never_sets_something_free(
    chosen: Settings, readings: Readings, now: datetime, cause: Reason
) -> None:
    before, _ = decide(chosen, State(), readings, now)
    more = CAUSES[cause].get("programs", frozenset()) | readings.programs
    after, _ = decide(chosen, State(), replace(readings, **CAUSES[cause] | {"programs": more}), now)
    stopping = {one.reason for one in before.reasons if one.rule.stops}
    assert isinstance(after, Pause) or isinstance(before, Run)
    assert stopping <= reasons_of(after)
    if isinstance(before, Run) and isinstance(after, Run):
        assert {card.index for card in after.limits.gpus} <= {card.index for card in before.limits.gpus}
        assert after.limits.on_cpu <= before.limits.on_cpu


@settings(max_examples=100, deadline=None)
@given(CHOSEN, READINGS, MOMENTS, st.sampled_from(sorted(Reason)))
def test_a_reason_that_is_known_otherwise_never_sets_something_free(
    chosen: Settings, readings: Readings, now: datetime, reason: Reason
) -> None:
    figures: dict[str, str | int] = {"times": 3, "problem": "it"}
    before, _ = decide(chosen, State(), readings, now)
    after, _ = decide(chosen, State(), readings, now, [Active(reason, figures=figures)])
    assert isinstance(after, Pause) or isinstance(before, Run)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.sampled_from(sorted(CAUSES))), st.booleans())
def test_all_reasons_are_listed(causes: set[Reason], paused: bool) -> None:
    chosen = with_values(
        programs__exclusive=["blender"], network__month_gb=50, schedule__enabled=True, modes__paused=paused
    )
    readings = QUIET
    for cause in causes:
        readings = replace(readings, **CAUSES[cause])
    decision, _ = decide(chosen, State(), readings, NOW)
    warm = {Reason.CPU_WARM} if Reason.CPU_HOT in causes and isinstance(decision, Run) else set()
    assert reasons_of(decision) == causes | ({Reason.PAUSED} if paused else set()) | warm
    assert isinstance(decision, Pause) is bool(causes or paused)


ALWAYS = {"modes__cpu": "always", "modes__gpu": "always", "modes__network": "always"}


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries({}, optional=VALUES), READINGS, MOMENTS, st.sampled_from(["program", "heat"]))
def test_always_never_overrides_programs_and_heat(
    values: dict[str, Any], readings: Readings, now: datetime, what: str
) -> None:
    without_ends = {name: value for name, value in values.items() if not name.endswith("_until")}
    chosen = with_values(**without_ends | ALWAYS | {"programs__exclusive": ["blender"]})
    cause = {"programs": frozenset({"blender"})} if what == "program" else {"cpu_celsius": 111.0}
    assert isinstance(decide(chosen, State(), replace(readings, **cause), now)[0], Pause)


@settings(max_examples=50, deadline=None)
@given(CHOSEN, READINGS)
def test_what_is_unknown_stops_nothing_for_ever(chosen: Settings, readings: Readings) -> None:
    """Whatever was read before: an hour and a quarter after all sensors went, only what was decided stops."""
    unwanted = with_values(
        **{f"modes__{axis}": getattr(chosen.modes, axis) for axis in ("cpu", "gpu", "network")},
        programs__exclusive=list(chosen.programs.exclusive),
        programs__resume_after_s=chosen.programs.resume_after_s,
        idle__only=chosen.idle.only,
    )
    _, state = decide(unwanted, State(), readings, NOW)
    now, nothing = NOW, Readings()
    for _ in range(150):
        now += timedelta(seconds=30)
        decision, state = decide(unwanted, state, nothing, now)
    modes = unwanted.modes
    assert isinstance(decision, Run) is (modes.cpu != "never" and modes.network != "never")
