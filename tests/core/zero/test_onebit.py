"""1-bit Adam: AdamW at first, then equal to a reference that keeps every gradient and compresses in plain words."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cluster_of_threads import (
    VOCAB,
    Trainer,
    batches_of,
    in_threads,
    loss_sum,
    small_config,
    theta_of,
    tokens_of,
    train_in_threads,
)
from network_cluster import NetworkCluster
from plain_units import PlainSlot
from torch import Tensor, nn

from legion.comm.api import Batches
from legion.comm.local import LocalCluster
from legion.config import OptimizerConfig, RunConfig, merge
from legion.errors import ConfigInvalid, NotFinite, StepAborted
from legion.layout import CHUNK, Bounds, Layout, padded
from legion.model.build import blueprint
from legion.zero.onebit import LocalMomentum, UnitOneBitAdam
from legion.zero.optimizers import Slice

STEPS, WARM = 15, 3
COMPARED = 9  # steps; later, the first signs that rounding decides differ, and what follows from them
Assignment = Callable[[int], Sequence[Sequence[int]]]  # step -> each member's micro-batches


def onebit_config(**changes: Any) -> RunConfig:
    config = small_config(**({"optimizer__name": "onebit_adam", "cluster__claims": "static"} | changes))
    return config.model_copy(update={"steps": STEPS})


def signs_and_means(values: Tensor) -> Tensor:
    """What the wire makes of it: every 256 elements have one magnitude, the mean, in bf16."""
    blocks = values.view(-1, 256)
    magnitude = blocks.abs().mean(dim=1, keepdim=True).bfloat16().float()
    return torch.where(blocks < 0, -magnitude, magnitude).view(-1)


class PlainOneBitAdam:
    """One process in the place of all members. Momentum is summed up anew from all gradients in every step."""

    def __init__(self, config: RunConfig, shares: Sequence[int], assignment: Assignment) -> None:
        self.config = config
        self._assignment = assignment
        plan = blueprint(config, VOCAB)
        self._model = plan.model
        self._layout = Layout(plan.shape.sizes, tuple(shares))
        units = [torch.from_numpy(values.copy()) for values in theta_of(config, plan)]
        self.weights = torch.cat(units)
        self._decay = torch.zeros_like(self.weights)
        self._parameters: list[tuple[nn.Parameter, slice]] = []
        for unit, offset in zip(plan.units, self._layout.offsets, strict=True):
            for slot in unit.parameters:
                place = slice(offset + slot.offset, offset + slot.offset + slot.numel)
                parameter = nn.Parameter(self.weights[place].view(slot.shape))
                for module, attribute in slot.owners:
                    module._parameters[attribute] = parameter
                self._parameters.append((parameter, place))
                self._decay[place] = config.optimizer.weight_decay if len(slot.shape) > 1 else 0.0
        self._own = torch.zeros(len(shares), self.weights.numel(), dtype=torch.bool)
        for rank in self._layout.ranks:
            for unit, offset in enumerate(self._layout.offsets):
                bounds = self._layout.bounds(unit, rank)
                self._own[rank, offset + bounds.start : offset + bounds.stop] = True
        self._gradients: list[list[Tensor]] = []  # clipped sums, by step and member
        self._tokens: list[int] = []
        self._residual = torch.zeros(len(shares), self.weights.numel())
        self._momentum = torch.zeros_like(self.weights)
        self._variance = torch.zeros_like(self.weights)

    def _gradient(self, step: int, indices: Sequence[int]) -> tuple[Tensor, float, int]:
        batches = batches_of(step, self.config.batch.micro_batches)
        total, tokens = 0.0, 0
        for index in indices:
            loss = loss_sum(self._model, batches[index])
            loss.backward()
            total += float(loss.detach())
            tokens += tokens_of(batches[index])
        flat = torch.zeros_like(self.weights)
        for parameter, place in self._parameters:
            if parameter.grad is not None:
                flat[place] = parameter.grad.flatten()
                parameter.grad = None
        return flat, total, tokens

    @torch.no_grad()
    def step(self, step: int) -> float:
        """The mean loss."""
        settings, t = self.config.optimizer, step + 1
        with torch.enable_grad():
            computed = [self._gradient(step, indices) for indices in self._assignment(step)]
        tokens = sum(count for _, _, count in computed)
        if step < WARM:
            gradient = sum(flat for flat, _, _ in computed) / tokens
            self._warm_up(gradient * self._clip(gradient, 1.0))
        else:
            count = self.config.batch.micro_batches
            shares = [len(indices) / count for indices in self._assignment(step)]
            clipped = [
                flat * (self._clip(flat / own, math.sqrt(share)) if share else 1.0)
                for (flat, _, own), share in zip(computed, shares, strict=True)
            ]
            self._gradients.append(clipped)
            self._tokens.append(tokens)
            self._momentum = self._sent(t - WARM)
        rate = settings.lr * self._decay
        deviation = (self._variance / (1 - settings.beta2 ** min(t, WARM))).sqrt() + settings.eps
        change = self._momentum / (1 - settings.beta1**t) / deviation
        self.weights.mul_(1 - rate).sub_(settings.lr * (change if step < WARM else change.clamp(-1, 1)))
        return sum(loss for _, loss, _ in computed) / tokens

    def _clip(self, gradient: Tensor, share: float) -> float:
        most = self.config.optimizer.clip_norm
        return 1.0 if most is None else min(1.0, most / share / (float(gradient.norm()) + 1e-6))

    def _warm_up(self, gradient: Tensor) -> None:
        settings = self.config.optimizer
        self._momentum = settings.beta1 * self._momentum + (1 - settings.beta1) * gradient
        self._variance = settings.beta2 * self._variance + (1 - settings.beta2) * gradient**2
        self._left = self._momentum.clone()

    def _sent(self, count: int) -> Tensor:
        """The mean momentum after `count` compressed steps, as it arrives."""
        beta = self.config.optimizer.beta1
        weights = [(1 - beta) * beta ** (count - 1 - s) for s in range(count)]
        tokens = beta**count * self._tokens[0] + sum(w * n for w, n in zip(weights, self._tokens, strict=True))
        arrived = torch.zeros_like(self.weights)
        for rank in range(len(self._own)):
            momentum = sum(w * step[rank] for w, step in zip(weights, self._gradients, strict=True))
            momentum = momentum + self._own[rank] * self._left * beta**count * self._tokens[0]
            message = momentum + self._residual[rank]
            received = torch.where(self._own[rank], message, signs_and_means(message))
            self._residual[rank] = message - received
            arrived += received
        return arrived / tokens * self._clip(arrived / tokens, 1.0)


def static(world: int, count: int = 4) -> Assignment:
    return lambda _: [range(rank, count, world) for rank in range(world)]


def assert_as_reference(
    config: RunConfig, shares: Sequence[int], assignment: Assignment, my_turn: Any = lambda *_: True
) -> None:
    outcomes, weights = train_in_threads(config, shares, COMPARED, my_turn)
    plain = PlainOneBitAdam(config, shares, assignment)
    start = plain.weights.clone()
    assert [outcome.loss for outcome in outcomes] == pytest.approx([plain.step(s) for s in range(COMPARED)], rel=1e-5)
    sizes, offsets = plain._layout.units, plain._layout.offsets
    cut = [slice(offset, offset + size) for size, offset in zip(sizes, offsets, strict=True)]
    reference, before = (torch.cat([values[c] for c in cut]).numpy() for values in (plain.weights, start))
    assert np.linalg.norm(weights - reference) <= 1e-3 * np.linalg.norm(reference - before)


@pytest.mark.parametrize("shares", [(1,), (1, 1), (3, 1), (1, 2, 4)])
def test_equal_to_one_process_that_compresses_for_all(shares: tuple[int, ...]) -> None:
    assert_as_reference(onebit_config(), shares, static(len(shares)))


@pytest.mark.parametrize("clip", [None, 0.05])
def test_clipping_as_the_reference_does(clip: float | None) -> None:
    assert_as_reference(onebit_config(optimizer__clip_norm=clip), (1, 1), static(2))


def test_a_member_that_computed_nothing_sends_its_momentum() -> None:
    """Who computes alternates: all of even steps is rank 0's, of odd steps rank 1's; rank 2 never computes."""
    assert_as_reference(
        onebit_config(cluster__claims="dynamic"),
        (1, 1, 1),
        lambda step: [range(4) if rank == step % 2 else () for rank in range(3)],
        my_turn=lambda rank, step: rank == step % 2,
    )


def test_more_members_than_micro_batches() -> None:
    """With static claims parts wait for their turn: those of idle members come last."""
    config = onebit_config(batch__micro_batches=2)
    assert_as_reference(config, (1, 1, 1, 1), static(4, 2))


@pytest.mark.parametrize("reduce_every", ["micro_batch", "step"])
def test_the_warm_up_is_adamw_bit_for_bit(reduce_every: str) -> None:
    config = onebit_config(cluster__reduce_every=reduce_every)
    adamw = onebit_config(cluster__reduce_every=reduce_every, optimizer__name="adamw")
    (first, weights), (second, reference) = (train_in_threads(c, (1, 2), WARM) for c in (config, adamw))
    assert first == second
    assert np.array_equal(weights, reference)
    after, _ = train_in_threads(config, (1, 2), WARM + 1)
    beyond, _ = train_in_threads(adamw, (1, 2), WARM + 1)
    assert after[:WARM] == beyond[:WARM]
    assert after[WARM].loss == beyond[WARM].loss
    assert after[WARM].grad_norm != beyond[WARM].grad_norm


def test_static_claims_reproduce_a_run_bit_for_bit() -> None:
    first, second = (train_in_threads(onebit_config(), (1, 1, 1), STEPS) for _ in range(2))
    assert first[0] == second[0]
    assert np.array_equal(first[1], second[1])


class Cluster:
    """Members whose engines a test looks into."""

    def __init__(self, config: RunConfig, shares: Sequence[int]) -> None:
        self.layout = Layout(blueprint(config, VOCAB).shape.sizes, tuple(shares))
        self.local = LocalCluster(self.layout, static_claims=True)
        self.config = config

    def __enter__(self) -> "Cluster":
        self.local.__enter__()
        self.trainers = [Trainer(self.config, self.local, self.layout, rank) for rank in self.layout.ranks]
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.local.__exit__(*exc_info)

    def train(self, steps: Sequence[int]) -> list[float]:
        def work(rank: int) -> list[float]:
            return [self.trainers[rank].step(step).loss for step in steps]

        return in_threads(work, self.layout.world, self.local.fail)[0]

    def slices(self) -> list[dict[str, Tensor]]:
        """What a checkpoint holds."""
        names = ("weights", "exp_avg", "exp_avg_sq")
        return [{name: getattr(t.zero.slice, name).clone() for name in names} for t in self.trainers]


def moments(trainer: Trainer) -> list[Tensor]:
    local = trainer.zero._onebit
    assert local is not None
    return [tensor.clone() for tensor in (*local.momentum, *local.residual, trainer.zero.slice.exp_avg)]


def test_over_the_network_as_in_one_process(tmp_path: Path) -> None:
    """Static claims: the same bits, whatever carries them."""
    config = onebit_config()
    outcomes, weights = train_in_threads(config, (1, 2, 1), COMPARED)
    layout = Layout(blueprint(config, VOCAB).shape.sizes, (1, 2, 1))
    with NetworkCluster(tmp_path, layout, static_claims=True) as network:
        trainers = [Trainer(config, network, layout, rank) for rank in layout.ranks]
        found = in_threads(lambda rank: [trainers[rank].step(step) for step in range(COMPARED)], 3, network.fail)
        parts = [[t.zero.part(unit).weights.clone() for t in trainers] for unit in range(len(layout.units))]
    assert found[0] == outcomes
    assert np.array_equal(torch.cat([torch.cat(p)[:n] for p, n in zip(parts, layout.units, strict=True)]), weights)


def test_an_aborted_step_leaves_momentum_and_residual_where_they_were() -> None:
    with Cluster(onebit_config(), (1, 1)) as cluster:
        cluster.train(range(WARM + 4))
        before = [moments(trainer) for trainer in cluster.trainers]
        assert any(tensor.any() for tensor in before[0])

        def aborted(rank: int) -> None:
            trainer = cluster.trainers[rank]
            batch = batches_of(0, 4)[rank]
            trainer.zero.begin(trainer.config.batch.micro_batches)
            for index in (rank, rank + 2):
                with trainer.zero.backward_of(index, tokens_of(batch)):
                    loss_sum(trainer.model, batch).backward()
            with pytest.raises(StepAborted, match="NaN or infinite"):
                trainer.zero.finish(math.nan, 0.01)

        in_threads(aborted, 2, cluster.local.fail)
        after = [moments(trainer) for trainer in cluster.trainers]
        for mine, theirs in zip(itertools.chain(*before), itertools.chain(*after), strict=True):
            assert torch.equal(mine, theirs)


def test_the_momentum_in_the_slice_survives_and_residuals_restart_at_zero() -> None:
    steps = range(WARM + 6)
    with Cluster(onebit_config(), (1, 1)) as cluster:
        cluster.train(steps[:-3])
        saved = cluster.slices()
        straight = cluster.train(steps[-3:])
    with Cluster(onebit_config(), (1, 1)) as resumed:
        for trainer, kept in zip(resumed.trainers, saved, strict=True):
            for name, values in kept.items():
                getattr(trainer.zero.slice, name).copy_(values)
            trainer.zero.start(steps[-3])
        losses = resumed.train(steps[-3:])
        assert losses[0] == straight[0]  # the same weights
        assert losses == pytest.approx(straight, rel=0.02)
        for trainer, kept in zip(resumed.trainers, saved, strict=True):
            # Frozen for good, and the momentum goes on: it was not thrown away.
            assert torch.equal(trainer.zero.slice.exp_avg_sq, kept["exp_avg_sq"])
            assert torch.nn.functional.cosine_similarity(trainer.zero.slice.exp_avg, kept["exp_avg"], dim=0) > 0.3
        more = resumed.train(range(steps[-1] + 1, STEPS))
    assert all(math.isfinite(loss) for loss in more)


def test_a_start_forgets_what_was_not_sent() -> None:
    with Cluster(onebit_config(), (1, 1)) as cluster:
        cluster.train(range(WARM + 2))
        trainer = cluster.trainers[0]
        kept = trainer.zero.slice.exp_avg.clone()
        trainer.zero.start(WARM + 2)
        *local, exp_avg = moments(trainer)
        assert not any(tensor.any() for tensor in local)
        assert torch.equal(exp_avg, kept)


def test_one_member_resumes_without_any_loss() -> None:
    """It has no residuals: a run with a stop equals a run without to the rounding."""
    with Cluster(onebit_config(), (1,)) as cluster:
        cluster.train(range(WARM + 3))
        (saved,) = cluster.slices()
        straight = cluster.train(range(WARM + 3, STEPS))
    with Cluster(onebit_config(), (1,)) as resumed:
        for name, values in saved.items():
            getattr(resumed.trainers[0].zero.slice, name).copy_(values)
        resumed.trainers[0].zero.start(WARM + 3)
        assert resumed.train(range(WARM + 3, STEPS)) == pytest.approx(straight, rel=1e-3)


def test_gradients_that_are_not_finite_stop_the_step() -> None:
    with Cluster(onebit_config(), (1, 1)) as cluster:
        cluster.train(range(WARM + 1))
        before = [moments(trainer) for trainer in cluster.trainers]

        def work(rank: int) -> None:
            trainer, batch = cluster.trainers[rank], batches_of(0, 4)[rank]
            trainer.zero.begin(trainer.config.batch.micro_batches)
            with trainer.zero.backward_of(rank, tokens_of(batch)):
                (loss_sum(trainer.model, batch) * (math.nan if rank == 0 else 1.0)).backward()
            trainer.zero.finish(1.0, 0.01)

        with pytest.raises(NotFinite):
            in_threads(work, 2, cluster.local.fail)
        after = [moments(trainer) for trainer in cluster.trainers]
        for mine, theirs in zip(itertools.chain(*before), itertools.chain(*after), strict=True):
            assert torch.equal(mine, theirs)


def test_the_memory_of_momentum_and_residual_is_counted() -> None:
    with Cluster(onebit_config(), (1, 3)) as onebit, Cluster(onebit_config(optimizer__name="adamw"), (1, 3)) as adamw:
        for mine, theirs in zip(onebit.trainers, adamw.trainers, strict=True):
            assert mine.zero.state_bytes == theirs.zero.state_bytes + 8 * onebit.layout.total


# The parts by themselves

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
