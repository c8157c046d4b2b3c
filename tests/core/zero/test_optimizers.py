"""AdamW over ranges of a unit equals torch.optim.AdamW over whole parameters, wherever the ranges are cut."""

import itertools

import pytest
import torch
from plain_units import PlainSlot
from torch import Tensor, nn

from legion.config import OptimizerConfig
from legion.layout import Bounds
from legion.zero.optimizers import Slice, UnitAdamW

CONFIG = OptimizerConfig(lr=0.02, weight_decay=0.3, beta1=0.8, beta2=0.9, eps=1e-6)
SHAPES = ((5, 7), (7,), (1,), (3, 2, 2), (11, 1), (13,))  # 35 + 7 + 1 + 12 + 11 + 13 = 79 elements, decayed and not
PADDED = 96


def slots() -> list[PlainSlot]:
    found, offset = [], 0
    for shape in SHAPES:
        found.append(PlainSlot(f"p{offset}", shape, offset, ()))
        offset += torch.Size(shape).numel()
    return found


def values(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(PADDED, generator=generator)


def rates(step: int) -> float:
    return 0.02 / (step + 1)


def reference(steps: int) -> Tensor:
    start = values(0)
    parameters = [nn.Parameter(start[s.offset : s.offset + s.numel].clone().view(s.shape)) for s in slots()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": CONFIG.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=CONFIG.lr, betas=(CONFIG.beta1, CONFIG.beta2), eps=CONFIG.eps, foreach=False)
    for step in range(steps):
        gradient = values(1 + step)
        for slot, parameter in zip(slots(), parameters, strict=True):
            parameter.grad = gradient[slot.offset : slot.offset + slot.numel].view(slot.shape)
        for group in adamw.param_groups:
            group["lr"] = rates(step)
        adamw.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


class Owner:
    """One member's part [start, stop) of the unit."""

    def __init__(self, start: int, stop: int) -> None:
        self.bounds = Bounds(start, stop)
        size = stop - start
        self.slice = Slice(values(0)[start:stop].clone(), torch.zeros(size), torch.zeros(size), torch.zeros(size))
        self.restart(0)

    def restart(self, step: int) -> None:
        """As a resumed run does: a new optimizer over the moments at hand."""
        self._adamw = UnitAdamW(CONFIG, slots(), self.bounds, self.slice, step)

    def update(self, step: int) -> None:
        self.slice.gradient.copy_(values(1 + step)[self.bounds.start : self.bounds.stop])
        self._adamw.update(rates(step))


CUTS = [
    (0, 96),
    (0, 1, 96),
    (0, 35, 42, 43, 55, 66, 79, 96),  # at the parameters' borders
    (0, 17, 39, 42, 50, 50, 70, 96),  # inside them, one part empty
    (0, 79, 80, 96),  # parts that are padding only
    tuple(range(97)),  # one element each
]


@pytest.mark.parametrize("cuts", CUTS)
def test_equal_to_torch_wherever_it_is_cut(cuts: tuple[int, ...]) -> None:
    owners = [Owner(start, stop) for start, stop in itertools.pairwise(cuts)]
    for step in range(6):
        for owner in owners:
            owner.update(step)
    whole = torch.cat([owner.slice.weights for owner in owners])
    torch.testing.assert_close(whole[:79], reference(6), rtol=1e-6, atol=1e-7)
    assert torch.equal(whole[79:], values(0)[79:])  # padding belongs to nobody


def test_going_on_from_stored_moments_changes_nothing() -> None:
    straight, resumed = Owner(10, 70), Owner(10, 70)
    for step in range(8):
        straight.update(step)
        if step == 5:
            resumed.restart(5)
        resumed.update(step)
    for mine, theirs in zip(
        (straight.slice.weights, straight.slice.exp_avg, straight.slice.exp_avg_sq),
        (resumed.slice.weights, resumed.slice.exp_avg, resumed.slice.exp_avg_sq),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_moments_of_the_wrong_step_would_be_seen() -> None:
    """The bias correction depends on the step: a resumed run must pass it on."""
    straight, wrong = Owner(0, 79), Owner(0, 79)
    straight.update(0)
    wrong.update(0)
    wrong.restart(0)
    straight.update(1)
    wrong.update(1)
    assert not torch.allclose(straight.slice.weights, wrong.slice.weights, rtol=1e-4)


def test_gradients_stay_in_the_slice() -> None:
    owner = Owner(0, 79)
    owner.update(0)
    assert torch.equal(owner.slice.gradient, values(1)[:79])
