"""The life of a run in rounds: how it starts, waits, ends and is resumed."""

from dataclasses import replace

import pytest
from coordinated_rounds import HARDWARE, Table, a_worker, config_of

from legion.ids import RunId, WorkerId
from legion.messages import ModelShape, TensorShape, UnitShape
from legion_server.domain import averaging
from legion_server.domain.runs import Run, Stored

OTHER = ModelShape(units=(UnitShape(name="x", tensors=(TensorShape(name="y", shape=(1,)),)),))


def test_a_run_waits_for_its_workers_or_for_long_enough() -> None:
    table = Table(config_of(3), "ab")
    assert (table.run.phase, table.rounds_or_none) == ("waiting", None)
    table.tick(599.0)
    assert table.run.phase == "waiting"
    table.tick(1.0)
    assert table.run.phase == "training"
    assert len(table.run.clusters) == 2


def test_the_wait_begins_anew_when_nobody_is_ready() -> None:
    table = Table(config_of(2), "a")
    table.tick(500.0)
    table.set("a", state="offline")
    assert table.run.ready_since is None
    table.tick(500.0)
    table.set("a", state="ready")
    table.tick(599.0)
    assert table.run.phase == "waiting"


def test_workers_that_will_never_agree_end_the_start() -> None:
    config = config_of(2)
    workers = {w.worker_id: w for w in (a_worker("a"), a_worker("b", shape=OTHER))}
    moment = averaging.tick(Run(RunId("run-1"), config), None, workers, 0.0, Stored())
    assert moment.run.phase == "failed"
    assert moment.run.failure is not None
    assert "different models" in moment.run.failure.message


def test_members_that_cannot_share_the_model_end_the_start() -> None:
    config = config_of(8, size=8)
    workers = {w.worker_id: w for w in (a_worker(name, shape=OTHER) for name in "abcdefgh")}
    moment = averaging.tick(Run(RunId("run-1"), config), None, workers, 0.0, Stored())
    assert moment.run.phase == "failed"
    assert "8 members cannot share 1 chunks" in str(moment.run.failure)


def test_who_built_another_model_than_the_run_does_not_join() -> None:
    table = Table(config_of(2), "ab")
    table.workers[WorkerId("c" * 32)] = a_worker("c", shape=OTHER)
    table.tick()
    assert len(table.run.clusters) == 2


def test_who_is_too_small_for_the_model_does_not_join_and_ends_no_run() -> None:
    table = Table(config_of(2), "ab")
    small = HARDWARE.model_copy(update={"memory_bytes": 100})
    table.workers[WorkerId("c" * 32)] = a_worker("c", hardware=small)
    table.workers[WorkerId("d" * 32)] = a_worker("d")
    table.tick()
    assert table.run.phase == "training"
    assert [plan.members[0].worker_id[0] for plan in table.run.clusters] == ["a", "b", "d"]


def ended() -> Table:
    table = Table(config_of(2, steps=20), "ab")
    table.follow()
    for _ in range(2):
        table.whole_round()
    return table


def test_after_the_last_round_only_the_checkpoint_is_missing() -> None:
    table = ended()
    assert (table.run.phase, table.run.step, table.rounds.plan) == ("finishing", 40, None)
    for name in "ab":
        table.set(name, state="offline")
    assert table.run.phase == "finishing"
    moment = averaging.tick(table.run, table.rounds, table.workers, 1.0, Stored(final_ready=True))
    assert (moment.run.phase, moment.happenings[-1].type) == ("complete", "phase")


def test_nobody_joins_for_a_round_that_will_not_be() -> None:
    table = Table(config_of(2, steps=20), "ab")
    table.follow()
    table.whole_round()
    table.workers[WorkerId("c" * 32)] = a_worker("c")
    table.tick()
    assert len(table.run.clusters) == 2
    for name in "ab":
        table.set(name, state="offline")
    assert [plan.round for plan in table.run.clusters] == [1]  # but in place of those that are gone
    assert table.plan.revision > 0


@pytest.mark.parametrize("rounds", [0, 1])
def test_resuming_goes_back_to_waiting_with_the_log(rounds: int) -> None:
    table = Table(config_of(2, steps=20), "ab")
    table.follow()
    for _ in range(rounds):
        table.whole_round()
    moment = averaging.resume(table.run, table.rounds, 0)
    assert (moment.run.phase, moment.run.clusters, moment.run.step) == ("waiting", (), 20 * rounds)
    assert moment.rounds == table.rounds
    table.run = moment.run
    before = table.plan
    ready = {w: replace(worker, state="ready", epoch=0) for w, worker in table.workers.items()}
    table.workers = ready
    table.tick()
    assert (table.plan.round, table.plan.revision) == (rounds, before.revision + 1)
    assert [p.cluster for p in table.plan.participants] == ["c3", "c4"]


def test_resuming_after_the_last_round_needs_nobody() -> None:
    table = ended()
    moment = averaging.resume(table.run, table.rounds, 20)
    assert (moment.run.phase, [h.data["phase"] for h in moment.happenings]) == ("finishing", ["finishing"])


def test_a_run_that_failed_before_its_first_round_resumes_plainly() -> None:
    moment = averaging.resume(Run(RunId("run-1"), config_of(2), phase="failed"), None, 0)
    assert moment.run.phase == "waiting"
