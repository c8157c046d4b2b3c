"""Members of a plan: who, in which order, and when there can be none."""

from collections.abc import Callable
from itertools import permutations

import pytest

from legion.config import RunConfig, config_digest, merge
from legion.errors import ConfigInvalid
from legion.ids import Epoch, RunId
from legion.messages import ModelShape, TensorShape, UnitShape
from legion_server.domain.membership import Worker
from legion_server.domain.plan import agreeing, candidates, make_plan

MakeWorker = Callable[..., Worker]


def test_candidates_are_ready_reachable_and_ordered_by_id(make_worker: MakeWorker) -> None:
    workers = [
        make_worker("d"),
        make_worker("b"),
        make_worker("c", state="paused"),
        make_worker("e", endpoint=None),
        make_worker("f", shape=None),
    ]
    for order in permutations(workers):
        assert [worker.worker_id[0] for worker in candidates(order)] == ["b", "d"]


def test_the_largest_group_agrees_and_ties_go_to_the_smallest_id(make_worker: MakeWorker) -> None:
    other = ModelShape(units=(UnitShape(name="u", tensors=(TensorShape(name="t", shape=(8,)),)),))
    a, b, c = make_worker("a", shape=other), make_worker("b"), make_worker("c")
    assert agreeing([a, b]) == [a]
    assert agreeing([a, b, c]) == [b, c]
    assert agreeing([]) == []


def test_a_plan_says_whose_configuration_it_is(make_worker: MakeWorker, shape: ModelShape) -> None:
    config = RunConfig(seed=3)
    plan = make_plan(RunId("run-1"), config, Epoch(2), 7, [make_worker("a", share=3), make_worker("b")])
    assert (plan.epoch, plan.first_step, plan.shape, plan.config_digest) == (2, 7, shape, config_digest(config))
    assert [member.share for member in plan.members] == [3, 1]


def test_more_members_than_chunks(make_worker: MakeWorker) -> None:
    with pytest.raises(ConfigInvalid, match="5 members cannot share 4 chunks"):
        make_plan(RunId("run-1"), RunConfig(), Epoch(1), 0, [make_worker(letter) for letter in "abcde"])


@pytest.mark.parametrize(("name", "needed"), [("adamw", 16 * 2 * 4096), ("onebit_adam", 16 * 2 * 4096 + 8 * 4 * 4096)])
def test_what_the_optimizer_keeps_must_fit(make_worker: MakeWorker, name: str, needed: int) -> None:
    config = merge(RunConfig(), {"optimizer": {"name": name}})

    def members(memory_bytes: int) -> list[Worker]:
        small = make_worker("b").hardware.model_copy(update={"memory_bytes": memory_bytes})
        return [make_worker("a"), make_worker("b", hardware=small)]

    assert len(make_plan(RunId("run-1"), config, Epoch(1), 0, members(needed)).members) == 2
    with pytest.raises(
        ConfigInvalid, match=r"take 0.0 GiB of pc-b \(bbbbbbbb\), which has 0.0 GiB of memory"
    ) as caught:
        make_plan(RunId("run-1"), config, Epoch(1), 0, members(needed - 1))
    assert "smaller model" in caught.value.hint


def test_an_optimizer_for_one_member(make_worker: MakeWorker) -> None:
    muon = merge(RunConfig(), {"optimizer": {"name": "muon"}})
    members = [make_worker("a"), make_worker("b")]
    with pytest.raises(ConfigInvalid, match="'muon' needs whole matrices on one member, and the cluster has 2"):
        make_plan(RunId("run-1"), muon, Epoch(1), 0, members)
    assert len(make_plan(RunId("run-1"), muon, Epoch(1), 0, members[:1]).members) == 1
