"""What `up` sends as configuration: valid for any number of steps, and the user's word wins."""

from typing import Any

import pytest

from legion.config import RunConfig, merge
from legion.errors import Unusable
from legion_server.up import defaults


def change(**given: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "workers": 2,
        "model": "tiny",
        "dataset": "python_stdlib",
        "steps": None,
        "codec": None,
        "settings": [],
    }
    return defaults.change(**(usual | given))


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 50, 600, 5000, None])
@pytest.mark.parametrize("model", ["tiny", "small"])
def test_the_configuration_is_valid_for_any_number_of_steps(steps: int | None, model: str) -> None:
    config = merge(RunConfig(), change(steps=steps, model=model))
    assert config.start.workers == 2
    assert config.model.preset == model
    assert steps is None or config.steps == steps
    assert config.optimizer.warmup_steps <= config.steps


@pytest.mark.parametrize(("workers", "clusters", "size"), [(4, 2, 2), (2, 2, 1), (6, 2, 3)])
def test_several_clusters_average_by_rounds(workers: int, clusters: int, size: int) -> None:
    config = merge(RunConfig(), change(workers=workers, clusters=clusters))
    assert (config.cluster.policy, config.cluster.size, config.start.workers) == ("fixed", size, workers)
    assert config.in_rounds
    assert config.steps % config.rounds.steps == 0
    assert config.batch.micro_batches == max(2, size)


@pytest.mark.parametrize(
    ("workers", "clusters", "verify", "team"),
    [
        (None, None, False, (4, 2)),
        (None, None, True, (2, 1)),
        (1, None, False, (1, 1)),
        (2, None, False, (2, 1)),
        (3, None, False, (3, 1)),
        (4, None, False, (4, 2)),
        (5, None, False, (5, 1)),
        (6, None, False, (6, 2)),
        (6, None, True, (6, 1)),
        (None, 1, False, (2, 1)),
        (None, 3, False, (6, 3)),
        (4, 1, False, (4, 1)),
        (2, 2, False, (2, 2)),
        (5, 2, False, (5, 2)),
    ],
)
def test_workers_and_clusters_follow_from_each_other(
    workers: int | None, clusters: int | None, verify: bool, team: tuple[int, int]
) -> None:
    assert defaults.team(workers, clusters, verify=verify) == team


def test_one_cluster_is_no_round() -> None:
    assert not merge(RunConfig(), change(workers=4)).in_rounds


def test_a_codec_is_for_both_streams() -> None:
    config = merge(RunConfig(), change(codec="int8"))
    assert (config.codecs.weights, config.codecs.gradients) == ("int8", "int8")


def test_single_settings_win_over_everything() -> None:
    config = merge(
        RunConfig(),
        change(
            steps=100,
            codec="int8",
            settings=[
                "optimizer.lr=0.5",
                "codecs.weights=none",
                "num_steps=7",
                "optimizer.warmup_steps=3",
                "batch_size=5",
            ],
        ),
    )
    assert config.optimizer.lr == 0.5
    assert (config.codecs.weights, config.codecs.gradients) == ("none", "int8")
    assert (config.steps, config.optimizer.warmup_steps) == (7, 3)
    assert config.batch.micro_batch_blocks == 5


def test_settings_leave_the_tuned_numbers_as_they_are() -> None:
    before = repr(defaults.TINY)
    change(steps=3, settings=["optimizer.lr=9", "batch.micro_batches=7"])
    assert repr(defaults.TINY) == before


@pytest.mark.parametrize("entry", ["steps", "=5", ""])
def test_a_setting_without_key_or_value_is_named(entry: str) -> None:
    with pytest.raises(Unusable, match="KEY=VALUE"):
        change(settings=[entry])
