"""The parts of 1-bit Adam by themselves: a member's momentum and residual, and the update with a frozen variance."""

import itertools

import pytest
import torch
from plain_onebit import signs_and_means
from plain_units import PlainSlot
from torch import Tensor

from legion.comm.api import Batches
from legion.config import OptimizerConfig, RunConfig, merge
from legion.errors import ConfigInvalid
from legion.layout import CHUNK, Bounds, Layout, padded
from legion.zero.onebit import LocalMomentum, UnitOneBitAdam
from legion.zero.optimizers import Slice

LAYOUT = Layout((3000, 9000, 5), (1, 2))
CONFIG = OptimizerConfig(name="onebit_adam", clip_norm=None)


def gradients(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(padded(size), generator=generator) for size in LAYOUT.units]


def no_slices(rank: int) -> list[Slice]:
    sizes = [len(LAYOUT.bounds(unit, rank)) for unit in range(3)]
    return [Slice(*(torch.zeros(size) for _ in range(4))) for size in sizes]


@pytest.mark.parametrize("rank", [0, 1])
def test_what_was_sent_and_what_waits_is_all_the_momentum(rank: int) -> None:
    """Over 40 steps, some aborted, some without a micro-batch of this member."""
    local = LocalMomentum(CONFIG, LAYOUT, rank)
    sent = [torch.zeros(padded(size), dtype=torch.float64) for size in LAYOUT.units]
    due = [torch.zeros_like(values) for values in sent]
    momentum = [torch.zeros_like(values) for values in sent]
    for step in range(40):
        mine = [] if step % 7 == 3 else gradients(step)
        local.follow([values.clone() for values in mine], Batches((0,) if mine else (), len(mine)), 2)
        if step % 5 == 4:
            continue  # aborted
        for unit, values in enumerate(momentum):
            values.mul_(CONFIG.beta1)
            if mine:
                values.add_(mine[unit].double(), alpha=1 - CONFIG.beta1)
            due[unit] += values
            own = LAYOUT.bounds(unit, rank)
            (message,) = local.message(unit)
            arrived = signs_and_means(message)
            arrived[own.start : own.stop] = message[own.start : own.stop]
            sent[unit] += arrived.double()
        local.divisor(7, no_slices(rank))
        local.settle()
    for unit, residual in enumerate(local.residual):
        own = LAYOUT.bounds(unit, rank)
        assert not residual[own.start : own.stop].any()
        torch.testing.assert_close(sent[unit] + residual.double(), due[unit], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(local.momentum[unit].double(), momentum[unit], atol=1e-5, rtol=1e-5)
        # It does not grow: what waits is worth a few steps.
        assert float(residual.norm()) <= 4 * float(local.momentum[unit].norm())


def test_tokens_are_averaged_as_the_momentum_is() -> None:
    """Every step has gradient 1 a token: the mean momentum is 1, whatever the tokens of each step."""
    local, parts = LocalMomentum(CONFIG, LAYOUT, 0), no_slices(0)
    for part in parts:
        part.exp_avg.fill_(1.0)  # as the warm-up left it
    for tokens in (10, 1000, 3, 77, 500):
        ones = [torch.full((padded(size),), float(tokens)) for size in LAYOUT.units]
        local.follow(ones, Batches((0,), tokens), 1)
        for unit, part in enumerate(parts):
            own = LAYOUT.bounds(unit, 0)
            part.gradient.copy_(local.message(unit)[0][own.start : own.stop])
        divisor = local.divisor(tokens, parts)
        local.settle()
        for part in parts:
            torch.testing.assert_close(part.gradient / divisor, torch.ones_like(part.gradient))


def test_the_share_of_the_work_decides_what_a_member_may_send() -> None:
    """A mean gradient of norm 8 with clip_norm 1: all of the work 1, a quarter of it at most 2."""
    config = OptimizerConfig(name="onebit_adam", clip_norm=1.0, beta1=0.0)
    layout = Layout((2 * CHUNK,), (1, 1))
    for indices, norm in (((0, 1, 2, 3), 1.0), ((2,), 2.0)):
        local, tokens = LocalMomentum(config, layout, 0), 5
        gradient = torch.zeros(2 * CHUNK)
        gradient[:4] = 4.0 * tokens
        local.follow([gradient], Batches(indices, tokens), 4)
        assert float(local.message(0)[0].norm()) / tokens == pytest.approx(norm, rel=1e-4)


SLOTS = [PlainSlot("matrix", (30, 20), 0, ()), PlainSlot("bias", (40,), 600, ())]
UNIT = OptimizerConfig(name="onebit_adam", lr=0.02, weight_decay=0.3, beta1=0.8, beta2=0.9, eps=1e-6)


def random(seed: int) -> Tensor:
    return torch.randn(700, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cuts", [(0, 700), (0, 1, 599, 600, 640, 640, 700), (0, 333, 650, 700)])
def test_a_frozen_variance_and_its_own_bias_correction(cuts: tuple[int, ...]) -> None:
    """Cut anywhere. In step t the momentum is divided by 1 - 0.8^t, the variance by 1 - 0.9^2 for ever."""
    parts = [
        Slice(random(0)[a:b].clone(), *(torch.zeros(b - a) for _ in range(3))) for a, b in itertools.pairwise(cuts)
    ]
    units = [
        UnitOneBitAdam(UNIT, SLOTS, Bounds(a, b), part, 0, 2)
        for (a, b), part in zip(itertools.pairwise(cuts), parts, strict=True)
    ]
    for step in range(6):
        before = torch.cat([part.weights for part in parts]).clone()
        for (a, b), part, unit in zip(itertools.pairwise(cuts), parts, units, strict=True):
            part.gradient.copy_(random(1 + step)[a:b])
            unit.update(UNIT.lr)
        if step < 2:
            continue
        momentum = random(1 + step)[:640].double()
        variance = (0.9 * 0.1 * random(1)[:640].double() ** 2 + 0.1 * random(2)[:640].double() ** 2) / (1 - 0.9**2)
        change = (momentum / (1 - 0.8 ** (step + 1)) / (variance.sqrt() + 1e-6)).clamp(-1, 1)
        decay = torch.tensor([0.3] * 600 + [0.0] * 40, dtype=torch.float64)
        expected = before[:640].double() * (1 - 0.02 * decay) - 0.02 * change
        whole = torch.cat([part.weights for part in parts])
        torch.testing.assert_close(whole[:640].double(), expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(whole[640:], random(0)[640:])  # padding belongs to nobody
        assert torch.equal(torch.cat([part.exp_avg for part in parts])[:640], random(1 + step)[:640])


def test_elements_without_a_gradient_in_the_warm_up_move_by_the_learning_rate_at_most() -> None:
    part = Slice(torch.zeros(40), torch.zeros(40), torch.zeros(40), torch.zeros(40))
    unit = UnitOneBitAdam(UNIT, [PlainSlot("bias", (40,), 0, ())], Bounds(0, 40), part, 5, 5)
    part.gradient.fill_(1e-3)
    unit.update(0.02)
    assert torch.equal(part.weights, torch.full((40,), -0.02))


def test_the_warm_up_is_a_share_of_the_steps() -> None:
    config = OptimizerConfig(name="onebit_adam")
    assert [config.onebit_warmup_steps(steps) for steps in (1, 4, 5, 9, 10, 1000)] == [1, 1, 1, 1, 2, 200]
    with pytest.raises(ConfigInvalid, match="onebit_warmup_ratio"):
        merge(RunConfig(), {"optimizer": {"onebit_warmup_ratio": 0.25}})
