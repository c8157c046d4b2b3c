"""Each rule of a polite guest with its default, at its edges."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from legion_client.machine.policy import Pause, Run, decide
from legion_client.machine.presence import State
from legion_client.machine.readings import GpuReading, Readings
from legion_client.machine.reasons import RULES, Active, Reason, why
from legion_client.settings import Settings, describe
from tests.client.machine.polite_guest import CARD, GB, GIB, NOW, QUIET, Watch, first, reasons_of, with_values


def test_an_idle_computer_gives_all_but_a_core() -> None:
    decision = first(replace(QUIET, uplink_bytes_per_s=1_000_000))
    assert isinstance(decision, Run)
    limits = decision.limits
    assert (limits.cpu_threads, limits.on_cpu, limits.cpu_share) == (7, True, 1.0)
    assert [(card.index, card.share, card.power) for card in limits.gpus] == [(0, 1.0, 1.0)]
    assert limits.memory_bytes == 32 * GIB * 60 // 100
    assert limits.disk_bytes == 20 * GB
    assert (limits.upload_bytes_per_s, limits.download_bytes_per_s) == (800_000, None)
    assert decision.reasons == ()


def test_a_computer_in_use_gives_half_of_its_cores_a_quarter_of_its_memory_and_no_card() -> None:
    decision = first(replace(QUIET, idle_s=0))
    assert isinstance(decision, Run)
    assert (decision.limits.cpu_threads, decision.limits.gpus, decision.free_gpus) == (4, (), (0,))
    assert decision.limits.memory_bytes == 8 * GIB
    assert reasons_of(decision) == [Reason.GPU_IN_USE]
    allowed = first(replace(QUIET, idle_s=0), with_values(graphics__in_use=True))
    assert isinstance(allowed, Run)
    assert len(allowed.limits.gpus) == 1


@pytest.mark.parametrize(("idle_s", "in_use"), [(0, True), (179.9, True), (180, False), (1e9, False)])
def test_three_minutes_without_input_are_idle(idle_s: float, in_use: bool) -> None:
    decision = first(replace(QUIET, idle_s=idle_s))
    assert (Reason.GPU_IN_USE in reasons_of(decision)) is in_use
    only = first(replace(QUIET, idle_s=idle_s), with_values(idle__only=True))
    assert isinstance(only, Pause) is in_use


@pytest.mark.parametrize(
    ("cores", "in_use", "idle"), [(None, 1, 1), (0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 2), (7, 3, 6)]
)
def test_one_core_always_computes(cores: int | None, in_use: int, idle: int) -> None:
    for idle_s, threads in ((0, in_use), (600, idle)):
        decision = first(replace(QUIET, physical_cores=cores, idle_s=idle_s))
        assert isinstance(decision, Run)
        assert decision.limits.cpu_threads == threads


# What stops by its default, with the reading just before it and the one that does.
EDGES: list[tuple[Reason, dict[str, Any], dict[str, Any]]] = [
    (Reason.BATTERY, {"on_battery": False}, {"on_battery": True}),
    (Reason.CPU_HOT, {"cpu_celsius": 90.0}, {"cpu_celsius": 90.1}),
    (Reason.FULL_SCREEN, {"full_screen": False}, {"full_screen": True}),
    (Reason.GAME, {"game": False}, {"game": True}),
    (Reason.METERED, {"metered": False}, {"metered": True}),
    (Reason.DISK_FULL, {"free_disk_bytes": 5 * GB}, {"free_disk_bytes": 5 * GB - 1}),
    (Reason.DISK_SHARE, {"used_disk_bytes": 20 * GB}, {"used_disk_bytes": 20 * GB + 1}),
    (
        Reason.DISK_SHARE,
        {"used_disk_bytes": 15 * GB, "disk_bytes": 30 * GB},
        {"used_disk_bytes": 15 * GB + 1, "disk_bytes": 30 * GB},
    ),
    (
        Reason.MEMORY,
        {"engine_memory_bytes": 32 * GIB * 60 // 100},
        {"engine_memory_bytes": 32 * GIB * 60 // 100 + 1},
    ),
    (
        Reason.MEMORY,
        {"engine_memory_bytes": 8 * GIB, "memory_of_others_bytes": 24 * GIB - 512 * 2**20},
        {"engine_memory_bytes": 8 * GIB, "memory_of_others_bytes": 24 * GIB - 512 * 2**20 + 1},
    ),
    (
        Reason.MEMORY,
        {"idle_s": 0, "engine_memory_bytes": 8 * GIB},
        {"idle_s": 0, "engine_memory_bytes": 8 * GIB + 1},
    ),
]


@pytest.mark.parametrize(("reason", "allows", "stops"), EDGES)
def test_what_stops_everything_by_default(reason: Reason, allows: dict[str, Any], stops: dict[str, Any]) -> None:
    assert isinstance(first(replace(QUIET, **allows)), Run)
    decision = first(replace(QUIET, **stops))
    assert isinstance(decision, Pause)
    assert reason in reasons_of(decision)
    assert why(next(one for one in decision.reasons if one.reason is reason)).setting in describe()


@pytest.mark.parametrize(("reason", "allows", "stops"), EDGES)
def test_what_stopped_lets_go_after_a_minute_of_quiet(
    reason: Reason, allows: dict[str, Any], stops: dict[str, Any]
) -> None:
    calm = allows | ({"cpu_celsius": 78.0} if reason is Reason.CPU_HOT else {})
    watch = Watch()
    assert isinstance(watch.see(replace(QUIET, **stops)), Pause)
    assert isinstance(watch.see(replace(QUIET, **calm)), Pause)
    lingering = watch.see(replace(QUIET, **calm))
    assert [one.over for one in lingering.reasons if one.reason is reason] == [True]
    assert lingering.reasons[0].until == pytest.approx(watch.now.timestamp() + 59)
    assert "60 s" in why(lingering.reasons[0]).sentence
    assert watch.seconds_until(Run, replace(QUIET, **calm)) == 59


SWITCHES: list[tuple[Reason, dict[str, Any], dict[str, Any]]] = [
    (Reason.BATTERY, {"power__pause_on_battery": False}, {"on_battery": True}),
    (Reason.FULL_SCREEN, {"programs__pause_full_screen": False}, {"full_screen": True}),
    (Reason.GAME, {"programs__pause_games": False}, {"game": True}),
    (Reason.METERED, {"network__pause_when_metered": False}, {"metered": True}),
    (Reason.DISK_FULL, {"disk__least_free_gb": 0}, {"free_disk_bytes": 0}),
    (Reason.DISK_SHARE, {"disk__most_gb": 0, "disk__most_percent": 100}, {"used_disk_bytes": 100 * GB}),
]


@pytest.mark.parametrize(("reason", "off", "stops"), SWITCHES)
def test_a_rule_that_is_switched_off_lets_go_at_once(
    reason: Reason, off: dict[str, Any], stops: dict[str, Any]
) -> None:
    watch = Watch()
    assert reason in reasons_of(watch.see(replace(QUIET, **stops)))
    watch.settings = with_values(**off)
    decisions = [watch.see(replace(QUIET, **stops)) for _ in range(62 if reason.startswith("disk") else 1)]
    assert isinstance(decisions[-1], Run)


@pytest.mark.parametrize(
    ("charge", "stops"), [(None, False), (float("nan"), False), (49.9, True), (50, False), (100, False)]
)
def test_a_minimum_charge_where_computing_on_the_battery_is_allowed(charge: float | None, stops: bool) -> None:
    settings = with_values(power__pause_on_battery=False)
    on_battery = first(replace(QUIET, on_battery=True, battery_percent=charge), settings)
    assert (Reason.BATTERY_LOW in reasons_of(on_battery)) is stops
    plugged_in = first(replace(QUIET, on_battery=False, battery_percent=charge), settings)
    assert isinstance(plugged_in, Run)


def test_programs_of_the_lists_are_found_by_their_names() -> None:
    settings = with_values(
        programs__exclusive=["Blender", r"C:\Games\Doom.EXE"], programs__exclusive_graphics=["/usr/bin/obs"]
    )
    assert isinstance(first(replace(QUIET, programs=frozenset({"blend", "bash"})), settings), Run)
    for name in ("blender", "doom"):
        decision = first(replace(QUIET, programs=frozenset({name})), settings)
        assert isinstance(decision, Pause)
        assert not decision.network
        assert decision.free_gpus == (0,)
    graphics = first(replace(QUIET, programs=frozenset({"obs"})), settings)
    assert isinstance(graphics, Run)
    assert (graphics.limits.gpus, graphics.free_gpus) == ((), (0,))
    assert "obs" in why(graphics.reasons[0]).sentence


def test_the_load_of_others_counts_after_half_a_minute_if_asked_for() -> None:
    busy, calm = replace(QUIET, gpus=(), cpu_load_of_others=0.61), replace(QUIET, gpus=(), cpu_load_of_others=0.6)
    watch = Watch()
    assert all(isinstance(watch.see(busy), Run) for _ in range(100))
    watch = Watch(with_values(processor__busy_percent=60))
    assert watch.seconds_until(Pause, busy) == 31  # the first second is the one it was seen in
    assert reasons_of(watch.see(busy)) == [Reason.CPU_BUSY]
    assert watch.seconds_until(Run, calm) == 31


def test_where_no_input_is_reported_somebody_may_be_there() -> None:
    """As on KDE under Wayland, whose user writes a letter: that loads nothing."""
    unknown = replace(QUIET, idle_s=None)
    watch = Watch()
    for _ in range(1000):
        calm = watch.see(unknown)
    assert isinstance(calm, Run)
    assert (calm.limits.cpu_threads, calm.limits.memory_bytes, calm.limits.gpus) == (4, 8 * GIB, ())
    assert calm.free_gpus == (0,)
    assert reasons_of(calm) == [Reason.GPU_USE_UNKNOWN, Reason.IDLE_UNKNOWN]
    allowed = first(unknown, with_values(graphics__in_use=True))
    assert isinstance(allowed, Run)
    assert [card.index for card in allowed.limits.gpus] == [0]


def test_where_no_input_is_reported_load_shows_use() -> None:
    unknown = replace(QUIET, idle_s=None, cpu_load_of_others=0.7)
    watch = Watch(with_values(idle__only=True))
    assert isinstance(watch.see(replace(unknown, cpu_load_of_others=0.1)), Run)
    busy = [watch.see(unknown) for _ in range(31)]
    assert [Reason.IN_USE in reasons_of(one) for one in busy] == [False] * 30 + [True]


@pytest.mark.parametrize("settings", [Settings(), with_values(idle__only=True)])
def test_where_nothing_is_reported_the_processor_does_not_wait(settings: Settings) -> None:
    decision = first(Readings(gpus=(GpuReading(0, "Card"),)), settings)
    assert isinstance(decision, Run)
    assert decision.limits.on_cpu
    assert reasons_of(decision) == [Reason.GPU_USE_UNKNOWN, Reason.USE_UNKNOWN]


@pytest.mark.parametrize("alone", [{"processor__enabled": False}, {"modes__cpu": "never"}, {"modes__gpu": "always"}])
def test_where_nothing_is_reported_a_card_without_a_processor_does_not_wait_either(alone: dict[str, Any]) -> None:
    decision = first(Readings(gpus=(GpuReading(0, "Card"),)), with_values(**alone))
    assert isinstance(decision, Run)
    assert [card.index for card in decision.limits.gpus] == [0]
    assert decision.limits.gpus[0].memory == 0.9


def test_without_a_card_the_processor_computes_if_it_may() -> None:
    bare = replace(QUIET, gpus=())
    assert isinstance(first(bare), Run)
    decision = first(bare, with_values(processor__enabled=False))
    assert reasons_of(decision) == [Reason.CPU_DISABLED, Reason.NO_GPU]
    with_card = first(QUIET, with_values(processor__enabled=False))
    assert isinstance(with_card, Run)
    assert not with_card.limits.on_cpu
    excluded = first(QUIET, with_values(processor__enabled=False, graphics__excluded=[0]))
    assert reasons_of(excluded) == [Reason.GPU_EXCLUDED, Reason.CPU_DISABLED]
    disabled = first(QUIET, with_values(processor__enabled=False, graphics__enabled=False))
    assert reasons_of(disabled) == [Reason.GPU_DISABLED, Reason.CPU_DISABLED]


def test_a_lost_card_is_left_out_and_said() -> None:
    decision = first(replace(QUIET, gpus=(CARD, GpuReading(1, "Gone", lost=True)), gpu_problem="the driver failed."))
    assert isinstance(decision, Run)
    assert [card.index for card in decision.limits.gpus] == [0]
    assert [why(one).sentence for one in decision.reasons] == [
        "Graphics card 1 (Gone) no longer answers.",
        "Graphics cards: the driver failed.",
    ]


def test_shares_and_caps_of_the_settings() -> None:
    settings = with_values(
        processor__time_in_use_percent=40,
        processor__time_idle_percent=80,
        graphics__time_percent=70,
        graphics__power_percent=60,
        network__upload_kb_per_s=100,
        network__download_kb_per_s=200,
    )
    decision = first(replace(QUIET, uplink_bytes_per_s=1e6), settings)
    assert isinstance(decision, Run)
    assert decision.limits.cpu_share == 0.8
    assert (decision.limits.gpus[0].share, decision.limits.gpus[0].power) == (0.7, 0.6)
    assert (decision.limits.upload_bytes_per_s, decision.limits.download_bytes_per_s) == (100_000, 200_000)
    slow = first(replace(QUIET, uplink_bytes_per_s=100.0, idle_s=0), settings)
    assert isinstance(slow, Run)
    assert (slow.limits.upload_bytes_per_s, slow.limits.cpu_share) == (1000, 0.4)


@pytest.mark.parametrize(("used", "stops"), [(None, False), (50 * GB - 1, False), (50 * GB, True)])
def test_the_month_has_a_volume(used: int | None, stops: bool) -> None:
    decision = first(replace(QUIET, month_bytes=used), with_values(network__month_gb=50))
    assert isinstance(decision, Pause) is stops
    if stops:
        assert decision.reasons[0].until == datetime(2026, 4, 1, tzinfo=UTC).timestamp()
    assert isinstance(first(replace(QUIET, month_bytes=10**15)), Run)


def test_reasons_that_no_sensor_tells_are_listed_too() -> None:
    failed = Active(Reason.ENGINE_FAILED, figures={"times": 3, "problem": "out of memory"})
    decision, _ = decide(Settings(), State(), replace(QUIET, on_battery=True), NOW, [failed])
    assert reasons_of(decision) == [Reason.ENGINE_FAILED, Reason.BATTERY]
    assert why(decision.reasons[0]).sentence == "The training engine failed 3 times in a row: out of memory."


def test_every_reason_has_a_sentence_and_a_setting_that_exists() -> None:
    words = (
        "problem times program celsius resume_celsius gpu name free_gb least_gb used_gb most_gb held_gb month_gb "
        "charge least minutes load pace quiet_s busy_s needed_gb"
    )
    figures: dict[str, str | int] = dict.fromkeys(words.split(), 7)
    for reason in Reason:
        for over in (False, True):
            told = why(Active(reason, figures=figures, over=over))
            assert told.slug == reason.value
            assert told.sentence[0].isupper()
            assert told.sentence.endswith(".")
            assert "{" not in told.sentence
            assert told.setting is None or told.setting in describe()


def test_sentences_can_be_translated_before_the_figures_are_filled_in() -> None:
    german = {RULES[Reason.CPU_HOT].text: "Der Prozessor hat {celsius} °C."}

    def tr(text: str, **figures: object) -> str:
        return german[text].format(**figures)

    decision = first(replace(QUIET, cpu_celsius=95.4))
    assert why(decision.reasons[0], tr).sentence == "Der Prozessor hat 95 °C."
