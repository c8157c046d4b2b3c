"""Limits while something is computed: the card's own where it may be lowered, rests for what it does not do."""

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pynvml
import pytest
import torch

from legion.train.pace import Pace
from legion_client.engine import throttling
from legion_client.engine.protocol import Held, Left, Listening, Pause, Prepare, Resume, StepDone, Stop, Throttle, Train
from legion_client.engine.throttling import CardPower, Throttling, part_of_time
from legion_client.machine.card_power import Note, PowerLimit
from tests.client.engine.engine_processes import (
    WAIT_S,
    Dataset,
    EngineProcess,
    Engines,
    plan_of,
    prepare_command,
    with_config,
)
from tests.client.machine.fake_nvml import DEFAULT_MW, FakeNvml

ROOT = Path(__file__).parents[3]
OURS, OTHER = "GPU-1", "GPU-0"
WHOLE = {OTHER: DEFAULT_MW, OURS: DEFAULT_MW}

# An engine that computes on the processor, and whose driver says that it is card GPU-1 that does.
WITH_A_CARD = f"""
import sys
from pathlib import Path

sys.path.insert(0, {str(ROOT)!r})
import legion.train.device
import legion_client.machine.nvml
from tests.client.machine.fake_nvml import FakeNvml

legion.train.device.card_uuid = lambda _device: {OURS!r}
legion_client.machine.nvml.pynvml = FakeNvml(Path(PATH))
"""


class Paced(Pace):
    """Remembers what it was told last."""

    duty = 1.0

    def limit(self, *, duty: float, threads: int | None) -> None:
        self.duty = duty
        super().limit(duty=duty, threads=threads)


class Stuck(FakeNvml):
    """A driver that answers when the test lets it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked, self.answers = threading.Event(), threading.Event()

    def nvmlDeviceSetPowerManagementLimit(self, card: str, limit_mw: int) -> None:  # noqa: N802
        self.asked.set()
        self.answers.wait(WAIT_S)
        super().nvmlDeviceSetPowerManagementLimit(card, limit_mw)


@pytest.fixture
def nvml(tmp_path: Path) -> FakeNvml:
    return FakeNvml.with_cards(tmp_path / "driver.json", OTHER, OURS)


@pytest.fixture
def note(tmp_path: Path) -> Path:
    return tmp_path / "state" / "power-limit.json"


@pytest.fixture
def pace() -> Paced:
    return Paced()


@pytest.fixture
async def limits(pace: Paced, nvml: FakeNvml, note: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Throttling]:
    monkeypatch.setattr(throttling, "PowerLimit", functools.partial(PowerLimit, nvml=nvml))
    limits = Throttling(pace, torch.device("cpu"), OURS, note)
    limits.begin()
    yield limits
    await limits.end()


def noted(note: Path) -> bool:
    return note.exists()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.01)


@pytest.mark.parametrize(
    ("duty", "power", "kept", "part"),
    [
        (1.0, 1.0, 1.0, 1.0),
        (0.7, 0.5, 1.0, 0.35),  # the limit is whole: rests do it all
        (0.7, 0.5, 0.5, 0.7),  # only what heat and the hours ask for is rested
        (0.8, 0.25, 0.5, 0.4),  # the card takes no lower limit
        (0.7, 0.9, 0.5, 0.7),  # it is still as low as it was asked to be before
    ],
)
def test_rests_are_for_what_the_limit_does_not_do(duty: float, power: float, kept: float, part: float) -> None:
    assert part_of_time(duty, power, kept) == pytest.approx(part)


async def test_the_limit_is_lower_only_while_something_is_computed(
    limits: Throttling, pace: Paced, nvml: FakeNvml, note: Path
) -> None:
    limits.obey(Throttle(duty=0.5, power=0.6))
    assert pace.duty == pytest.approx(0.3)
    with limits.computing():
        await until(lambda: pace.duty == 0.5)
        assert nvml.limits == WHOLE | {OURS: 120_000}
        limits.holds(True)
        await until(lambda: pace.duty == pytest.approx(0.3))
        assert nvml.limits == WHOLE
        limits.holds(False)
        await until(lambda: pace.duty == 0.5)
        limits.obey(Throttle(duty=0.5, power=0.2))
        await until(lambda: nvml.limits[OURS] == 100_000 and pace.duty == pytest.approx(0.2))
        limits.obey(Throttle(duty=0.4))
        await until(lambda: nvml.limits == WHOLE)
        assert pace.duty == 0.4
        limits.obey(Throttle(power=0.6))
        await until(lambda: nvml.limits[OURS] == 120_000)
    await until(lambda: nvml.limits == WHOLE and not noted(note))


async def test_the_end_puts_it_back_though_a_step_is_still_under_way(
    limits: Throttling, nvml: FakeNvml, note: Path
) -> None:
    limits.obey(Throttle(power=0.6))
    with limits.computing():
        await until(lambda: nvml.limits[OURS] == 120_000)
        await limits.end()
        assert (nvml.limits, noted(note)) == (WHOLE, False)
    await limits.end()


async def test_where_it_may_not_be_set_the_card_rests(
    limits: Throttling, pace: Paced, nvml: FakeNvml, note: Path
) -> None:
    nvml.fail(SetPowerManagementLimit=pynvml.NVML_ERROR_NO_PERMISSION)
    limits.obey(Throttle(duty=0.5, power=0.6))
    with limits.computing():
        await limits.end()
    assert (pace.duty, nvml.limits, noted(note)) == (pytest.approx(0.3), WHOLE, False)


async def test_who_has_no_place_for_a_note_rests(pace: Paced) -> None:
    limits = Throttling(pace, torch.device("cpu"), OURS, None)
    limits.begin()
    limits.obey(Throttle(duty=0.5, power=0.6, threads=2))
    limits.holds(True)
    with limits.computing():
        assert pace.duty == pytest.approx(0.3)
    await limits.end()


async def test_what_others_set_is_noticed_by_itself(nvml: FakeNvml, note: Path) -> None:
    power, told = CardPower(PowerLimit(OURS, note, nvml), look_s=0.01), asyncio.Queue[float]()
    power.start(asyncio.get_running_loop(), lambda: told.put_nowait(power.kept))
    power.change(share=0.6, computing=True)
    assert await told.get() == 0.6
    nvml.set_by_others(OURS, 150_000)
    assert await told.get() == 1.0
    await power.end(WAIT_S)
    assert nvml.limits[OURS] == 150_000


async def test_a_driver_that_hangs_holds_nobody_up(
    pace: Paced, nvml: FakeNvml, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(nvml._path)
    monkeypatch.setattr(throttling, "PowerLimit", functools.partial(PowerLimit, nvml=stuck))
    monkeypatch.setattr(throttling, "END_S", 0.1)
    limits = Throttling(pace, torch.device("cpu"), OURS, note)
    limits.begin()
    with limits.computing():
        limits.obey(Throttle(duty=0.5, power=0.6))
        await until(stuck.asked.is_set)
        assert pace.duty == pytest.approx(0.3)
        limits.holds(True)
        limits.obey(Throttle(duty=0.4, power=0.5))
        assert pace.duty == pytest.approx(0.2)
    began = time.monotonic()
    await limits.end()
    assert time.monotonic() - began < 5
    assert noted(note), "for whoever comes next"
    stuck.answers.set()
    await until(lambda: nvml.limits == WHOLE and not noted(note))


def start(engines: Engines, data: Dataset, nvml: FakeNvml, note: Path) -> tuple[EngineProcess, Prepare]:
    """An engine that computes on our card, and what prepares it."""
    [engine] = engines.start(1, patches={0: WITH_A_CARD.replace("PATH", repr(str(nvml._path)))})
    return engine, prepare_command(engine, data).model_copy(update={"power_note": note})


def train(engine: EngineProcess, command: Prepare, data: Dataset) -> None:
    engine.send(command)
    listening = engine.wait_for(Listening)
    engine.send(Throttle(power=0.6))
    engine.send(Train(plan=plan_of([engine], [listening], data)))


def reaches(engine: EngineProcess, nvml: FakeNvml, limits: dict[str, int]) -> None:
    deadline = time.monotonic() + WAIT_S
    while nvml.limits != limits:
        assert time.monotonic() < deadline, engine.log
        engine.until_silent(0.02)


def training_low(engines: Engines, text_data: Dataset, nvml: FakeNvml, note: Path) -> EngineProcess:
    """An engine that computes on a card which it has lowered."""
    data = with_config(text_data, steps=1_000_000, checkpoint={"every_steps": 1_000_000})
    engine, command = start(engines, data, nvml, note)
    train(engine, command, data)
    reaches(engine, nvml, WHOLE | {OURS: 120_000})
    return engine


def test_an_engine_keeps_its_own_card_down_while_it_trains(
    engines: Engines, text_data: Dataset, nvml: FakeNvml, note: Path
) -> None:
    engine = training_low(engines, text_data, nvml, note)
    engine.send(Pause(reason="the volunteer asked"))
    reaches(engine, nvml, WHOLE)
    engine.send(Resume())
    reaches(engine, nvml, WHOLE | {OURS: 120_000})
    engine.send(Stop(reason="enough"))
    assert engine.ended() == 0, engine.log
    assert engine.all(Held)
    assert engine.all(StepDone)
    assert isinstance(engine.reports[-1], Left)
    assert (nvml.limits, noted(note)) == (WHOLE, False)
    assert "Traceback" not in engine.log


def test_an_engine_without_its_agent_puts_the_limit_back(
    engines: Engines, text_data: Dataset, nvml: FakeNvml, note: Path
) -> None:
    engine = training_low(engines, text_data, nvml, note)
    engine.close_input()
    assert engine.ended() == 0, engine.log
    assert (nvml.limits, noted(note)) == (WHOLE, False)


@pytest.mark.parametrize("next_one", ["agent", "engine"])
def test_whoever_comes_after_a_kill_puts_the_limit_back(
    engines: Engines, text_data: Dataset, nvml: FakeNvml, note: Path, next_one: str
) -> None:
    engine = training_low(engines, text_data, nvml, note)
    Note(note, nvml).read()
    assert nvml.limits[OURS] == 120_000, "its engine lives"
    engine.kill()
    engine.ended()
    assert nvml.limits[OURS] == 120_000
    if next_one == "agent":
        Note(note, nvml).read()
    else:
        engine, command = start(engines, text_data, nvml, note)
        engine.send(command)
        reaches(engine, nvml, WHOLE)
        engine.close_input()
        assert engine.ended() == 0, engine.log
    assert (nvml.limits, noted(note)) == (WHOLE, False)
