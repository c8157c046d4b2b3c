"""What the volunteer says with a click: pause, snooze, auto, always, never."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from legion_client.machine.policy import Pause, Run
from legion_client.machine.reasons import Reason, why
from tests.client.machine.polite_guest import CARD, GB, GIB, NOW, QUIET, Watch, first, reasons_of, with_values

LATER = NOW + timedelta(hours=1)
ALWAYS = {"modes__cpu": "always", "modes__gpu": "always", "modes__network": "always"}


def test_a_pause_lasts_until_somebody_resumes() -> None:
    watch = Watch(with_values(modes__paused=True))
    paused = watch.see(QUIET, 1e7)
    assert isinstance(paused, Pause)
    assert paused.network  # what has been learned may still leave
    assert paused.free_gpus == (0,)
    assert [(why(one).sentence, why(one).setting) for one in paused.reasons] == [("Paused by you.", "modes.paused")]
    watch.settings = with_values()
    assert isinstance(watch.see(QUIET), Run)


def test_a_snooze_ends_by_itself() -> None:
    watch = Watch(with_values(modes__paused=True, modes__paused_until=LATER))
    assert [(one.reason, one.until) for one in watch.see(QUIET).reasons] == [(Reason.SNOOZED, LATER.timestamp())]
    assert isinstance(watch.see(QUIET, 3598), Pause)
    assert isinstance(watch.see(QUIET, 1), Run)


def test_never_stops_its_axis_until_its_time() -> None:
    cpu = first(QUIET, with_values(modes__cpu="never"))
    assert isinstance(cpu, Run)
    assert (cpu.limits.on_cpu, len(cpu.limits.gpus)) == (False, 1)
    gpu = first(QUIET, with_values(modes__gpu="never", modes__gpu_until=LATER))
    assert isinstance(gpu, Run)
    assert (gpu.limits.on_cpu, gpu.limits.gpus, gpu.free_gpus) == (True, (), (0,))
    assert gpu.reasons[0].until == LATER.timestamp()
    network = first(QUIET, with_values(modes__network="never"))
    assert isinstance(network, Pause)
    assert (reasons_of(network), network.network, network.free_gpus) == ([Reason.NETWORK_OFF], False, ())
    both = first(QUIET, with_values(modes__cpu="never", modes__gpu="never"))
    assert reasons_of(both) == [Reason.CPU_OFF, Reason.GPU_OFF]
    over = first(QUIET, with_values(modes__cpu="never", modes__cpu_until=NOW))
    assert over.reasons == ()


POLITE: list[dict[str, Any]] = [
    {"on_battery": True},
    {"full_screen": True},
    {"game": True},
    {"metered": True},
    {"idle_s": 0},
    {"month_bytes": 10**15},
]


@pytest.mark.parametrize("stops", POLITE)
def test_always_ignores_the_rules_of_when(stops: dict[str, Any]) -> None:
    settings = {"idle__only": True, "network__month_gb": 1, "schedule__enabled": True, "schedule__monday": []}
    assert isinstance(first(replace(QUIET, **stops), with_values(**settings)), Pause)
    decision = first(replace(QUIET, **stops), with_values(**settings, **ALWAYS))
    assert isinstance(decision, Run)
    assert decision.limits.on_cpu
    assert len(decision.limits.gpus) == 1
    assert decision.reasons == ()
    over = ALWAYS | {"modes__cpu_until": NOW, "modes__gpu_until": NOW, "modes__network_until": NOW}
    assert isinstance(first(replace(QUIET, **stops), with_values(**settings, **over)), Pause)


HARD: list[tuple[Reason, dict[str, Any]]] = [
    (Reason.EXCLUSIVE_PROGRAM, {"programs": frozenset({"blender"})}),
    (Reason.CPU_HOT, {"cpu_celsius": 91}),
    (Reason.DISK_FULL, {"free_disk_bytes": GB}),
    (Reason.MEMORY, {"engine_memory_bytes": 31 * GIB}),
]


@pytest.mark.parametrize(("reason", "stops"), HARD)
def test_always_obeys_programs_heat_and_what_would_break(reason: Reason, stops: dict[str, Any]) -> None:
    decision = first(replace(QUIET, **stops), with_values(programs__exclusive=["blender"], **ALWAYS))
    assert isinstance(decision, Pause)
    assert reasons_of(decision) == [reason]


def test_always_obeys_the_heat_of_a_card_and_programs_of_the_second_list() -> None:
    settings = with_values(programs__exclusive_graphics=["obs"], **ALWAYS)
    for readings in (
        replace(QUIET, gpus=(replace(CARD, celsius=84),)),
        replace(QUIET, programs=frozenset({"obs"})),
        replace(QUIET, gpus=(replace(CARD, memory_of_others_bytes=24 * GIB),)),
    ):
        decision = first(readings, settings)
        assert isinstance(decision, Run)
        assert decision.limits.gpus == ()


def test_always_keeps_the_limits_of_how_much() -> None:
    decision = first(replace(QUIET, idle_s=0), with_values(**ALWAYS))
    assert isinstance(decision, Run)
    assert decision.limits.cpu_threads == 4


def test_a_pause_of_the_volunteer_is_above_always() -> None:
    assert isinstance(first(QUIET, with_values(modes__paused=True, **ALWAYS)), Pause)


def test_always_of_one_axis_leaves_the_others_their_rules() -> None:
    decision = first(replace(QUIET, on_battery=True), with_values(modes__gpu="always"))
    assert isinstance(decision, Run)
    assert (decision.limits.on_cpu, len(decision.limits.gpus)) == (False, 1)
    assert reasons_of(decision) == [Reason.BATTERY]
