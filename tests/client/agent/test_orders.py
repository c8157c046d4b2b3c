"""What a decision means for the engine: rest, end, other cards, limits."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from legion.messages import Device
from legion_client.agent.orders import HOLD_S, NO_CARD, Offer, Unusable, device_kinds, offer, orders, seen
from legion_client.engine.protocol import Throttle
from legion_client.machine.policy import GpuLimit, Limits, Pause, Run, decide
from legion_client.machine.presence import State
from legion_client.machine.readings import GpuReading, Readings
from legion_client.machine.reasons import Active, Reason
from legion_client.settings import Settings
from tests.client.machine.polite_guest import CARD as READING
from tests.client.machine.polite_guest import NOW, QUIET, with_values
from tests.client.machine.test_policy_properties import CARDS, CHOSEN, READINGS, VALUES

CARD = GpuLimit(index=1, share=0.5, power=0.8, memory=0.9)

# What changes where is computed, and little that stops all of it.
PLACES = ("processor__enabled", "graphics__in_use", "graphics__excluded", "modes__cpu", "modes__gpu")
AXES = st.fixed_dictionaries({}, optional={name: VALUES[name] for name in PLACES}).map(lambda some: with_values(**some))


@dataclass
class Tried:
    cards: str | None
    card_problem: str | None = None


def run(*gpus: GpuLimit, on_cpu: bool = True) -> Run:
    return Run(Limits(cpu_threads=3, on_cpu=on_cpu, cpu_share=0.7, gpus=gpus))


def pause(reason: Reason, free: tuple[int, ...] = (), network: bool = True) -> Pause:
    return Pause((Active(reason, figures={"celsius": 95, "resume_celsius": 78}),), free, network)


@pytest.mark.parametrize(
    ("decision", "device", "ends"),
    [
        (pause(Reason.PAUSED, (0,)), "cpu", False),
        (pause(Reason.PAUSED, (0,)), "cuda", True),
        (pause(Reason.PAUSED, (0,)), "mps", True),
        (pause(Reason.PAUSED, (0,)), "xpu", True),
        (pause(Reason.CPU_HOT), "cuda", False),
        (pause(Reason.SHUTTING_DOWN), "cpu", True),
        (pause(Reason.METERED, network=False), "cpu", True),
        (pause(Reason.BATTERY), None, False),
        (replace(pause(Reason.FULL_SCREEN), free_memory=True), "cpu", True),
    ],
)
def test_only_a_pause_that_needs_it_ends_the_engine(decision: Pause, device: str | None, ends: bool) -> None:
    given = orders(decision, device, "0")
    assert given.wish is not None
    assert (given.wish.frees_memory, given.throttle) == (ends, None)
    assert given.wish.reason


@pytest.mark.parametrize(
    ("decision", "serves"),
    [
        (pause(Reason.PAUSED, (0,)), True),
        (pause(Reason.GAME, (0,)), True),
        (pause(Reason.SCHEDULE), True),
        (pause(Reason.BATTERY, (0,)), False),
        (pause(Reason.CPU_HOT), False),
        (pause(Reason.SHUTTING_DOWN, (0,)), False),
        (pause(Reason.METERED, network=False), False),
        (replace(pause(Reason.PAUSED), free_memory=True), False),
        (Pause((*pause(Reason.PAUSED).reasons, *pause(Reason.BATTERY).reasons)), False),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_cluster_is_served_where_only_computing_has_to_end(decision: Pause, serves: bool, device: str) -> None:
    given = orders(decision, device, "0")
    assert given.wish is not None
    assert given.wish.serves == serves


def test_limits_of_the_device_that_computes() -> None:
    on_cpu = orders(run(), "cpu", NO_CARD)
    assert on_cpu.wish is None
    assert on_cpu.throttle is not None
    assert on_cpu.throttle == Throttle(duty=0.7, threads=3)
    on_card = orders(run(CARD), "cuda", "1")
    assert on_card.wish is None
    assert on_card.throttle is not None
    assert on_card.throttle == Throttle(duty=0.5, power=0.8, threads=3, gpu_memory_fraction=0.9)


def test_an_engine_moves_to_what_it_may_use() -> None:
    needed = orders(replace(run(), free_gpus=(1,)), "cuda", "1")
    assert needed.wish is not None
    assert (needed.wish.frees_memory, needed.cards) == (True, NO_CARD)
    other = orders(replace(run(CARD), free_gpus=(0,)), "cuda", "0")
    assert other.wish is not None
    assert (other.wish.frees_memory, other.cards) == (True, "1")
    found = orders(run(CARD), "cpu", NO_CARD)
    assert found.wish is not None
    assert found.cards == "1"
    # And once it has ended, the next one starts there.
    assert orders(run(CARD), None, None).wish is None
    assert orders(run(CARD), None, None).cards == "1"


@pytest.mark.parametrize("free", [(), (CARD,)], ids=["no card", "another card"])
def test_a_card_that_stops_for_a_short_time_keeps_its_engine(free: tuple[GpuLimit, ...]) -> None:
    """Two moves would cost more than the pause, of this computer and of those that train with it."""
    hot = replace(run(*free), reasons=(Active(Reason.GPU_HOT, 0, {"gpu": 0, "celsius": 90, "resume_celsius": 75}),))
    held = orders(hot, "cuda", "0", 1000.0)
    for passed_s in (1.0, HOLD_S - 1):
        held = orders(hot, "cuda", "0", 1000.0 + passed_s, held)
        assert held.wish is not None
        assert (held.wish.frees_memory, held.cards, held.throttle) == (False, "0", None)
        assert held.wish.reason == "Graphics card 0 is at 90 °C: it waits until it is below 75 °C."
    cool = orders(run(replace(CARD, index=0)), "cuda", "0", 1000.0 + HOLD_S, held)
    assert (cool.wish, cool.without_since) == (None, None)
    moved = orders(hot, "cuda", "0", 1000.0 + HOLD_S, held)
    assert moved.wish is not None
    assert (moved.wish.frees_memory, moved.cards) == (True, str(CARD.index) if free else NO_CARD)
    yields = orders(replace(hot, free_gpus=(0,)), "cuda", "0", 1002.0, held)
    assert yields.wish is not None
    assert yields.wish.frees_memory


def test_a_card_that_nobody_tells_of_keeps_its_engine_for_a_while() -> None:
    gone = orders(run(), "cuda", "0", 5.0)
    assert gone.wish is not None
    assert (gone.wish.frees_memory, gone.wish.reason) == (
        False,
        "The graphics card does not answer: training waits for it.",
    )


@pytest.mark.parametrize("cards", [NO_CARD, "1"])
def test_a_processor_that_shall_not_compute_does_not(cards: str) -> None:
    """Whatever the engine says that it computes on: a card may be of no use to it."""
    given = orders(run(CARD, on_cpu=False), "cpu", cards)
    assert given.wish is not None
    assert (given.wish.frees_memory, given.throttle) == (True, None)


@pytest.mark.parametrize(
    "forbidden", [{"processor__enabled": False}, {"modes__cpu": "never"}], ids=["disabled", "never"]
)
def test_a_card_of_no_use_is_not_tried_again(forbidden: dict[str, object]) -> None:
    unusable = Unusable()
    assert unusable.reasons(None) == unusable.reasons(Tried("0")) == []
    unusable.reasons(Tried("0", "the driver is too old"))
    decision, _ = decide(with_values(**forbidden), State(), QUIET, NOW, unusable.reasons(Tried(NO_CARD)))
    assert isinstance(decision, Pause)
    assert Reason.GPU_UNUSABLE in {one.reason for one in decision.reasons}
    decision, _ = decide(with_values(), State(), QUIET, NOW, unusable.reasons(None))
    assert isinstance(decision, Run)
    assert (decision.limits.gpus, decision.limits.on_cpu) == ((), True)
    assert orders(decision, "cpu", "0").wish is None
    assert orders(decision, None, None).cards == NO_CARD
    two = replace(QUIET, gpus=(READING, replace(READING, index=1)))
    decision, _ = decide(with_values(**forbidden), State(), two, NOW, unusable.reasons(None))
    moved = orders(decision, "cpu", "0")
    assert moved.wish is not None
    assert moved.cards == "1"


@settings(max_examples=200, deadline=None)
@drawn(
    CHOSEN | AXES,
    READINGS | CARDS.map(lambda card: replace(QUIET, gpus=(READING, replace(card, index=1)))),
    st.sampled_from([None, "cpu", "cuda"]),
    st.sampled_from([NO_CARD, "0", "1", "2", "3"]),
)
def test_an_engine_computes_on_nothing_but_what_is_allowed(
    chosen: Settings, readings: Readings, device: str | None, cards: str
) -> None:
    if device == "cuda" and cards == NO_CARD:
        cards = "0"
    decision, _ = decide(chosen, State(), readings, NOW)
    given = orders(decision, device, None if device is None else cards, 7.0)
    if isinstance(decision, Pause):
        assert given.wish is not None
    if device == "cuda" and cards in {str(index) for index in decision.free_gpus}:
        assert given.wish is not None
        assert given.wish.frees_memory
    if isinstance(decision, Pause) or given.wish is not None:
        return
    allowed = {gpu.key for gpu in decision.limits.gpus}
    assert device != "cuda" or cards in allowed
    assert device != "cpu" or (decision.limits.on_cpu and (not allowed or cards in allowed))
    # Nor does one that starts where it is told to end again for that.
    started = "cuda" if given.cards else "cpu"
    if device is None:
        assert orders(decision, started, given.cards, 8.0, given).wish is None


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_rules_of_cards_hold_for_those_without_a_driver_to_ask(kind: str) -> None:
    here = replace(QUIET, gpus=(GpuReading(0, "Its GPU", kind=kind),))
    idle, _ = decide(with_values(), State(), here, NOW)
    assert (orders(idle, None, None).cards, orders(idle, kind, kind).wish) == (kind, None)
    throttle = orders(idle, kind, kind).throttle
    assert throttle is not None
    assert throttle.gpu_memory_fraction == 0.9
    in_use, _ = decide(with_values(), State(), replace(here, idle_s=0), NOW)
    freed = orders(in_use, kind, kind)
    assert freed.wish is not None
    assert (freed.wish.frees_memory, freed.cards) == (True, NO_CARD)
    unusable = Unusable().reasons(Tried(kind, "torch finds none"))
    without, _ = decide(with_values(), State(), here, NOW, unusable)
    assert orders(without, None, None).cards == NO_CARD


@pytest.mark.parametrize(
    ("cards", "kinds", "visible"),
    [(NO_CARD, (), ""), ("1", ("cuda",), "1"), ("mps", ("mps",), ""), ("xpu", ("xpu",), "")],
)
def test_an_engine_is_told_what_it_may_see(cards: str, kinds: tuple[str, ...], visible: str) -> None:
    assert device_kinds(cards) == kinds
    assert seen(cards) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}
    assert device_kinds(None) is None


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_an_engine_that_sees_every_card_is_not_moved(device: str) -> None:
    assert orders(run(), device, None).wish is None


@pytest.mark.parametrize(
    ("limit", "device", "card", "share"),
    [
        (None, Device(kind="cpu", name="x", memory_bytes=16 << 30), None, 16),
        (4 << 30, Device(kind="cpu", name="x", memory_bytes=16 << 30), None, 4),
        (32 << 30, Device(kind="cpu", name="x", memory_bytes=16 << 30), None, 16),
        (100, Device(kind="cpu", name="x", memory_bytes=16 << 30), None, 1),
        (4 << 30, Device(kind="mps", name="x", memory_bytes=16 << 30), None, 4),
        (4 << 30, Device(kind="cuda", name="x", memory_bytes=20 << 30), "1", 18),
        (4 << 30, Device(kind="cuda", name="x", memory_bytes=20 << 30), None, 20),
    ],
)
def test_no_more_memory_is_offered_than_may_be_held(
    limit: int | None, device: Device, card: str | None, share: int
) -> None:
    offered = offer(replace(run(CARD).limits, memory_bytes=limit))
    assert offered.share(device, card) == share
    assert Offer().share(device, card) == max(1, device.memory_bytes >> 30)
