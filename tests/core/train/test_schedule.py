"""The learning rate over a run: where it starts, peaks and ends, and that it never leaves its bounds."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.config import OptimizerConfig
from legion.train.schedule import learning_rate

SCHEDULES = ("cosine", "linear", "constant")


def config(schedule: str, warmup: int = 10, ratio: float = 0.1) -> OptimizerConfig:
    return OptimizerConfig.model_validate(
        {"lr": 0.5, "schedule": schedule, "warmup_steps": warmup, "min_lr_ratio": ratio}
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_linear_and_the_first_step_already_learns(schedule: str) -> None:
    rates = [learning_rate(config(schedule), step, 100) for step in range(11)]
    assert rates == pytest.approx([0.5 * (step + 1) / 11 for step in range(11)])
    assert rates[0] > 0
    assert rates[10] == 0.5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_warm_up_it_starts_at_the_top(schedule: str) -> None:
    assert learning_rate(config(schedule, warmup=0), 0, 100) == 0.5


def test_constant_stays() -> None:
    assert {learning_rate(config("constant"), step, 100) for step in range(10, 100)} == {0.5}


def test_linear_falls_evenly_to_the_floors_neighbour() -> None:
    rates = [learning_rate(config("linear"), step, 100) for step in range(10, 101)]
    falls = [a - b for a, b in itertools.pairwise(rates)]
    assert falls == pytest.approx([0.45 / 90] * 90)
    assert rates[-1] == pytest.approx(0.05)
    assert rates[-2] > 0.05  # the last step of the run still learns more than the floor


def test_cosine_passes_the_middle_half_way() -> None:
    rates = [learning_rate(config("cosine"), step, 110) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)
    assert rates[50] == pytest.approx((0.5 + 0.05) / 2)
    assert rates[-1] == pytest.approx(0.05)
    assert rates[25] == pytest.approx(0.05 + 0.45 * 0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 2), (3, 3), (7, 6)])
def test_the_shortest_runs(schedule: str, steps: int, warmup: int) -> None:
    rates = [learning_rate(config(schedule, warmup), step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.5 for rate in rates)


@given(st.sampled_from(SCHEDULES), st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_it_never_leaves_its_bounds(schedule: str, steps: int, warm: float, ratio: float, at: float) -> None:
    warmup, step = int(warm * steps), min(steps - 1, int(at * steps))
    rate = learning_rate(config(schedule, warmup, ratio), step, steps)
    assert 0 <= rate <= 0.5 * (1 + 1e-12)
    if step >= warmup:
        assert rate >= 0.5 * ratio * (1 - 1e-12)
