"""ZeRO-3 equals one process with torch.optim.AdamW, however the model, the data and the work are divided."""

from typing import Any

import numpy as np
import pytest
from cluster_of_threads import VOCAB, small_config, theta_of, train_alone, train_in_threads

from legion.config import RunConfig
from legion.model.build import blueprint

STEPS = 8


def assert_equal_training(config: RunConfig, shares: tuple[int, ...], **options: Any) -> None:
    outcomes, weights = train_in_threads(config, shares, STEPS, **options)
    expected, reference = train_alone(config, STEPS)
    for mine, theirs in zip(outcomes, expected, strict=True):
        assert mine.tokens == theirs.tokens
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-5)
    plan = blueprint(config, VOCAB)
    start = np.concatenate([v[:n] for v, n in zip(theta_of(config, plan), plan.shape.sizes, strict=True)])
    assert np.linalg.norm(weights - reference) <= 1e-4 * np.linalg.norm(reference - start)


@pytest.mark.parametrize("shares", [(1,), (1, 1), (3, 1), (1, 2, 4), (1, 1, 1, 1, 1, 1, 1)])
def test_any_number_of_members_trains_as_one(shares: tuple[int, ...]) -> None:
    assert_equal_training(small_config(), shares)


@pytest.mark.parametrize("claims", ["static", "dynamic"])
@pytest.mark.parametrize("reduce_every", ["micro_batch", "step"])
@pytest.mark.parametrize("reshard", [True, False])
def test_every_policy_trains_as_one(claims: str, reduce_every: str, reshard: bool) -> None:
    config = small_config(
        cluster__claims=claims, cluster__reduce_every=reduce_every, cluster__reshard_after_forward=reshard
    )
    assert_equal_training(config, (1, 1))


@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_prefetching_changes_nothing(prefetch: int) -> None:
    assert_equal_training(small_config(cluster__prefetch_units=prefetch), (1, 1))


def test_clipping_is_of_the_whole_gradient() -> None:
    config = small_config(optimizer__clip_norm=0.05)
    outcomes, _ = train_in_threads(config, (1, 1), 1)
    assert outcomes[0].grad_norm > 0.05
    assert_equal_training(config, (1, 1))


ARCHITECTURES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "tie_word_embeddings": True},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    },
    "qwen2": {
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    },
}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_tied_embeddings_and_other_architectures(architecture: str) -> None:
    config = small_config(model__architecture=architecture, model__settings=ARCHITECTURES[architecture])
    assert_equal_training(config, (2, 1))


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_a_member_may_compute_nothing(slow: int) -> None:
    """Members run 0 and more micro-batches: the slow one never claims."""
    assert_equal_training(small_config(), (1, 1, 1), my_turn=lambda rank, _: rank != slow)


def test_static_claims_reproduce_a_run_bit_for_bit() -> None:
    config = small_config(cluster__claims="static")
    first, second = (train_in_threads(config, (1, 1, 1), STEPS) for _ in range(2))
    assert first[0] == second[0]
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_lossy_codecs_train_nearly_as_well(codec: str) -> None:
    config = small_config(codecs__weights=codec, codecs__gradients=codec)
    outcomes, _ = train_in_threads(config, (1, 1), STEPS)
    expected, _ = train_alone(config, STEPS)
    assert outcomes[-1].loss == pytest.approx(expected[-1].loss, rel=0.01)
