"""1-bit Adam: AdamW at first, then equal to a reference that keeps every gradient and compresses in plain words."""

import itertools
import math
from collections.abc import Sequence
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
    tokens_of,
    train_in_threads,
)
from network_cluster import NetworkCluster
from plain_onebit import Assignment, PlainOneBitAdam
from torch import Tensor

from legion.comm.local import LocalCluster
from legion.config import RunConfig
from legion.errors import NotFinite, StepAborted
from legion.layout import Layout
from legion.model.build import blueprint

STEPS, WARM = 15, 3
COMPARED = 9  # steps; later, the first signs that rounding decides differ, and what follows from them


def onebit_config(**changes: Any) -> RunConfig:
    config = small_config(**({"optimizer__name": "onebit_adam", "cluster__claims": "static"} | changes))
    return config.model_copy(update={"steps": STEPS})


def static(world: int, count: int = 4) -> Assignment:
    return lambda _: [range(rank, count, world) for rank in range(world)]


def assert_as_reference(
    config: RunConfig, shares: Sequence[int], assignment: Assignment, my_turn: Any = lambda *_: True
) -> None:
    outcomes, weights = train_in_threads(config, shares, COMPARED, my_turn)
    plain = PlainOneBitAdam(config, shares, assignment)
    start = plain.weights.clone()
    assert [outcome.loss for outcome in outcomes] == pytest.approx([plain.step(s) for s in range(COMPARED)], rel=1e-5)
    sizes, offsets = plain.layout.units, plain.layout.offsets
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
