"""Units come and go with the model's own forward and backward; a step that fails somewhere changes nothing anywhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from torch import Tensor

from legion.comm.local import LocalCluster
from legion.config import RunConfig
from legion.errors import LegionError, NotFinite, PeerLost, RunError, StepAborted
from legion.ids import UnitId
from legion.layout import Layout
from legion.model.build import blueprint
from legion.zero import unit
from legion.zero.flat import FlatUnit, HostStage

LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 72,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
UNITS = 7  # embedding, five blocks, norm and head


def config_of(*, tied: bool = False, **changes: Any) -> RunConfig:
    return small_config(model__settings=LLAMA | {"tie_word_embeddings": tied}, **changes)


@contextmanager
def members(config: RunConfig, world: int) -> Iterator[Callable[[int], Trainer]]:
    layout = Layout(blueprint(config, VOCAB).shape.sizes, (1,) * world)
    with LocalCluster(layout) as cluster:
        yield lambda rank: Trainer(config, cluster, layout, rank)


def held(trainer: Trainer) -> list[int]:
    return [unit.number for unit in trainer.zero._units if unit.flat.allocated]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Trainer], list[list[int]]]:
    """Records which units have memory, each time one gets it."""

    def watch(trainer: Trainer) -> list[list[int]]:
        seen: list[list[int]] = []
        allocate = FlatUnit.allocate

        def watching(unit: FlatUnit) -> None:
            allocate(unit)
            seen.append(held(trainer))

        monkeypatch.setattr(FlatUnit, "allocate", watching)
        return seen

    return watch


@pytest.mark.parametrize("prefetch", [0, 1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_at_most_the_unit_at_work_and_those_ahead_are_held(
    watched: Callable[[Trainer], list[list[int]]], prefetch: int, tied: bool
) -> None:
    with members(config_of(tied=tied, cluster__prefetch_units=prefetch), 1) as member:
        trainer = member(0)
        seen = watched(trainer)
        trainer.step(0)
        assert max(len(units) for units in seen) == 1 + prefetch + tied
        assert held(trainer) == list(range(1 + prefetch))  # for the next step's forward
        trainer.zero.stop()
        assert held(trainer) == []


def test_who_stops_does_not_mind_that_the_others_are_gone() -> None:
    """The weights that set out for the next step never come, and nobody needs them."""
    with members(config_of(), 2) as member:
        trainer = member(0)  # the other one never offers its part
        trainer.zero._hold(UnitId(0))
        trainer.exchange.close("the other one left")
        trainer.zero.stop()
        with pytest.raises(PeerLost, match="the other one left"):
            trainer.zero.enter_forward(UnitId(1))


def test_every_unit_comes_for_the_forward_and_again_for_the_backward(
    watched: Callable[[Trainer], list[list[int]]],
) -> None:
    """Forward 0..6, backward 5..1, next forward 0. The head stays; the embedding's backward reads no weights."""
    with members(config_of(cluster__prefetch_units=0, batch__micro_batches=1), 1) as member:
        trainer = member(0)
        seen = watched(trainer)
        trainer.step(0)
        assert seen == [[unit] for unit in (0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0)]


def test_without_resharding_everything_stays_until_the_step_is_over(
    watched: Callable[[Trainer], list[list[int]]],
) -> None:
    with members(config_of(cluster__reshard_after_forward=False), 1) as member:
        trainer = member(0)
        seen = watched(trainer)
        trainer.step(0)
        assert seen[UNITS - 1] == list(range(UNITS))  # each is fetched once, for four micro-batches
        assert seen[UNITS:] == [[0], [0, 1]]  # and when the step is over, the first two for the next


def test_an_evaluation_holds_and_frees_and_leaves_no_gradients(
    watched: Callable[[Trainer], list[list[int]]],
) -> None:
    with members(config_of(cluster__reshard_after_forward=False), 1) as member:
        trainer = member(0)
        seen = watched(trainer)
        with trainer.zero.evaluation():
            loss = loss_sum(trainer.model, batches_of(0, 1)[0])
        assert not loss.requires_grad
        assert max(len(units) for units in seen) == 2
        assert held(trainer) == []
        assert all(gradient._gradients == [None] * len(gradient._gradients) for gradient in trainer.zero._gradients)


def test_a_parameter_that_gets_no_gradient_ends_the_micro_batch() -> None:
    """Its gradient is never made up of zeros."""
    with members(config_of(), 1) as member:
        trainer = member(0)
        trainer.zero.begin(trainer.config.batch.micro_batches)
        batch = batches_of(0, 1)[0]
        unused = trainer.model.get_submodule("model.layers.3.mlp")
        unused.forward = lambda x: x  # type: ignore[method-assign]
        with (
            pytest.raises(RunError, match="block 3: 3 parameters got no gradient"),
            trainer.zero.backward_of(0, tokens_of(batch)),
        ):
            loss_sum(trainer.model, batch).backward()


def weights_of(trainer: Trainer) -> Tensor:
    return trainer.zero.slice.weights.clone()


def outcomes(work: Callable[[int], Any], world: int) -> list[Any]:
    """What each member got: a result or its LegionError."""

    def caught(rank: int) -> Any:
        try:
            return work(rank)
        except LegionError as error:
            return error

    return in_threads(caught, world)


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_one_member_that_cannot_finish_aborts_the_step_for_all(culprit: int) -> None:
    """After a good step: the reason reaches everyone, and nobody's weights or moments change."""
    with members(config_of(), 3) as member:
        trainers = [member(rank) for rank in range(3)]

        def fails() -> None:
            raise RunError("the disk of this member is full")

        def work(rank: int) -> tuple[Tensor, LegionError, Tensor]:
            trainers[rank].step(0)
            before = weights_of(trainers[rank])
            if rank == culprit:
                trainers[rank].zero._sender.wait = fails  # type: ignore[method-assign]
            try:
                trainers[rank].step(1)
            except LegionError as error:
                return before, error, weights_of(trainers[rank])
            raise AssertionError("the step was committed")

        for rank, (before, error, after) in enumerate(in_threads(work, 3)):
            assert torch.equal(before, after)
            assert "the disk of this member is full" in str(error)
            assert type(error) is (RunError if rank == culprit else StepAborted)


@pytest.mark.parametrize("reduce_every", ["micro_batch", "step"])
def test_a_member_that_computes_nan_aborts_the_step_and_is_named(reduce_every: str) -> None:
    with members(config_of(cluster__reduce_every=reduce_every, cluster__claims="static"), 2) as member:
        trainers = [member(rank) for rank in range(2)]
        culprit = trainers[1]

        def poisoned(_module: Any, _arguments: Any, output: Tensor) -> Tensor:
            return output * float("nan")

        culprit.model.get_submodule("model.embed_tokens").register_forward_hook(poisoned)

        def work(rank: int) -> tuple[Tensor, LegionError, Tensor]:
            before = weights_of(trainers[rank])
            try:
                trainers[rank].step(0)
            except LegionError as error:
                return before, error, weights_of(trainers[rank])
            raise AssertionError("the step was committed")

        results = in_threads(work, 2)
        for before, error, after in results:
            assert torch.equal(before, after)
            assert isinstance(error, NotFinite | StepAborted)
            assert "from worker01" in str(error)


class StageElsewhere(HostStage):
    """As for a device with memory of its own: weights pass a copy in host memory."""

    def __init__(self, flat: Tensor) -> None:
        super().__init__(flat)
        self._on_host = False
        self.host = torch.empty_like(flat)


def test_a_device_with_memory_of_its_own_trains_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tied=True, cluster__claims="static")
    expected = train_in_threads(config, (1, 2), 3)
    monkeypatch.setattr(unit, "HostStage", StageElsewhere)
    found = train_in_threads(config, (1, 2), 3)
    assert found[0] == expected[0]
    assert np.array_equal(found[1], expected[1])
