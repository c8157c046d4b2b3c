"""The run's state machine: every way forward, every way down, and that time and repetition alone change nothing."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from legion.config import RunConfig, config_digest, merge
from legion.ids import Epoch, RunId, WorkerId
from legion.messages import Endpoint, Hardware, ModelShape, TensorShape, UnitShape
from legion_server.domain import runs
from legion_server.domain.membership import Worker, leave, revoke
from legion_server.domain.runs import Failure, Run, Stored, tick

MakeWorker = Callable[..., Worker]
NOTHING = Stored()


def a_run(workers: int = 2, **changes: object) -> Run:
    config = RunConfig.model_validate(
        {"start": {"workers": workers, "wait_s": 60}, "steps": 10, "optimizer": {"warmup_steps": 0}}
    )
    return replace(Run(RunId("run-1"), config), **changes)  # type: ignore[arg-type]


def keyed(*workers: Worker) -> dict[WorkerId, Worker]:
    return {worker.worker_id: worker for worker in workers}


def in_training(make_worker: MakeWorker, letters: str = "ab") -> tuple[Run, dict[WorkerId, Worker]]:
    workers = keyed(*(make_worker(letter) for letter in letters))
    run, _ = tick(a_run(len(letters)), workers, 0.0, NOTHING)
    assert run.phase == "training"
    return run, {i: replace(w, state="training", epoch=Epoch(1)) for i, w in workers.items()}


def test_waits_until_enough_are_ready(make_worker: MakeWorker) -> None:
    one = keyed(make_worker("b"), make_worker("a", state="preparing"))
    run, happenings = tick(a_run(), one, 5.0, NOTHING)
    assert (run.phase, run.ready_since, happenings) == ("waiting", 5.0, [])
    run, happenings = tick(run, keyed(make_worker("b"), make_worker("a")), 6.0, NOTHING)
    assert run.phase == "training"
    assert run.plan is not None
    assert [member.worker_id for member in run.plan.members] == ["a" * 32, "b" * 32]
    assert [happening.type for happening in happenings] == ["plan", "phase"]
    assert happenings[0].data == {"epoch": 1, "members": 2, "first_step": 0}


def test_starts_with_whoever_is_ready_after_the_wait(make_worker: MakeWorker) -> None:
    ready = keyed(make_worker("c"))
    run, _ = tick(a_run(), ready, 0.0, NOTHING)
    run, _ = tick(run, ready, 59.9, NOTHING)
    assert run.phase == "waiting"
    run, _ = tick(run, ready, 60.0, NOTHING)
    assert run.plan is not None
    assert len(run.plan.members) == 1


def test_the_wait_begins_anew_when_nobody_is_ready(make_worker: MakeWorker) -> None:
    run, _ = tick(a_run(), keyed(make_worker("c")), 0.0, NOTHING)
    run, _ = tick(run, {}, 50.0, NOTHING)
    run, _ = tick(run, keyed(make_worker("c")), 70.0, NOTHING)
    assert (run.phase, run.ready_since) == ("waiting", 70.0)


def test_workers_with_different_models_never_start_and_it_is_said(make_worker: MakeWorker) -> None:
    other = ModelShape(units=(UnitShape(name="u", tensors=(TensorShape(name="t", shape=(9999,)),)),))
    run, _ = tick(a_run(), keyed(make_worker("a"), make_worker("b", shape=other)), 0.0, NOTHING)
    assert run.phase == "failed"
    assert run.failure is not None
    assert "different models" in run.failure.message
    assert "pc-a" in run.failure.message
    assert "pc-a" not in run.failure.public


def test_one_odd_model_out_does_not_stop_the_others(make_worker: MakeWorker) -> None:
    other = ModelShape(units=(UnitShape(name="u", tensors=(TensorShape(name="t", shape=(9999,)),)),))
    workers = keyed(make_worker("a", shape=other), make_worker("b"), make_worker("c"))
    run, _ = tick(a_run(), workers, 0.0, NOTHING)
    assert run.plan is not None
    assert [member.worker_id[0] for member in run.plan.members] == ["b", "c"]


def test_more_members_than_chunks_is_refused_with_numbers(make_worker: MakeWorker) -> None:
    run, _ = tick(a_run(5), keyed(*(make_worker(letter) for letter in "abcde")), 0.0, NOTHING)
    assert run.phase == "failed"
    assert run.failure is not None
    assert "5 members cannot share 4 chunks" in run.failure.message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state": "offline"}, "has been silent for 90 s"),
        ({"state": "offline", "said_goodbye": True}, "left"),
        ({"state": "leaving"}, "left"),
        ({"state": "revoked"}, "was removed by the operator"),
        ({"state": "preparing", "epoch": 0, "dropped_epoch": 1}, "was started anew"),
        ({"state": "leaving", "failure": "not-finite", "failure_message": "loss is NaN"}, "stopped: loss is NaN"),
        ({"state": "offline", "failure": "engine-died", "failure_message": "signal 9"}, "stopped: signal 9"),
    ],
)
def test_a_lost_member_ends_the_run_and_is_named(make_worker: MakeWorker, change: dict[str, object], says: str) -> None:
    run, workers = in_training(make_worker)
    workers[WorkerId("b" * 32)] = replace(workers[WorkerId("b" * 32)], **change)  # type: ignore[arg-type]
    run, happenings = tick(replace(run, step=7), workers, 0.0, Stored(newest_complete=5))
    assert run.phase == "failed"
    assert run.failure is not None
    assert f"pc-b (bbbbbbbb) {says}" in run.failure.message
    assert "at step 7; resume the run from step 5" in run.failure.message
    assert "pc-b" not in run.failure.public
    assert happenings[-1].data["failure"] == run.failure.public
    assert tick(run, workers, 1.0, Stored(newest_complete=5)) == (run, [])


def test_a_reported_peer_is_blamed_until_it_says_itself_what_happened(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    a, b = sorted(workers)
    workers[a] = replace(workers[a], state="leaving", lost_peer=b, failure="peer-lost", failure_message="b is gone")
    run, _ = tick(run, workers, 0.0, NOTHING)
    assert run.failure is not None
    assert "pc-b (bbbbbbbb) does not answer, as pc-a (aaaaaaaa) reports" in run.failure.message
    workers[b] = replace(workers[b], state="leaving", failure="not-finite", failure_message="loss is NaN")
    run, _ = tick(run, workers, 1.0, NOTHING)
    assert "pc-b (bbbbbbbb) stopped: loss is NaN" in run.failure.message if run.failure else False


def test_the_cause_is_blamed_not_the_first_in_order(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    a, b = sorted(workers)
    workers[a] = replace(workers[a], state="offline", said_goodbye=True, failure="peer-lost", lost_peer=b)
    workers[b] = replace(workers[b], state="offline")
    run, _ = tick(run, workers, 0.0, NOTHING)
    assert run.failure is not None
    assert run.failure.blamed == b
    assert "silent" in run.failure.message


def test_a_bystander_may_come_and_go(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    workers |= keyed(make_worker("c", state="offline"), make_worker("d", failure="data"))
    assert tick(run, workers, 0.0, NOTHING) == (run, [])


def test_finishing_then_complete(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    a, b = sorted(workers)
    workers[a] = replace(workers[a], step=10)
    run, _ = tick(run, workers, 0.0, NOTHING)
    assert run.phase == "training"
    workers[b] = replace(workers[b], step=10)
    run, _ = tick(run, workers, 0.0, NOTHING)
    assert (run.phase, run.step) == ("finishing", 10)
    # Whoever has uploaded its last slice is free to go.
    workers[a], _ = leave(workers[a], 0.0)
    run, _ = tick(run, workers, 0.0, Stored(final_ranks=frozenset({0})))
    assert run.phase == "finishing"
    run, happenings = tick(run, workers, 0.0, Stored(final_ranks=frozenset({0, 1}), final_ready=True))
    assert run.phase == "complete"
    assert [happening.data["phase"] for happening in happenings] == ["complete"]


def test_leaving_before_the_last_slice_is_uploaded_is_a_loss(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    workers = {i: replace(worker, step=10) for i, worker in workers.items()}
    run, _ = tick(run, workers, 0.0, NOTHING)
    gone, _ = leave(workers[WorkerId("a" * 32)], 0.0)
    run, _ = tick(run, workers | keyed(gone), 0.0, Stored(final_ranks=frozenset({1})))
    assert run.phase == "failed"


def test_resume_waits_again_and_plans_a_new_epoch(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    run, _ = runs.fail(replace(run, step=7), Failure("m", "p"))
    run, happenings = runs.resume(run, 5)
    assert (run.phase, run.first_step, run.step, run.plan, run.failure) == ("waiting", 5, 5, None, None)
    assert happenings[0].data == {"phase": "waiting", "step": 5, "failure": None}
    assert tick(run, workers, 0.0, NOTHING)[0].phase == "waiting"  # they still follow the old plan
    run, _ = tick(run, keyed(make_worker("x"), make_worker("y")), 0.0, NOTHING)
    assert run.plan is not None
    assert (run.plan.epoch, run.plan.first_step, run.step) == (2, 5, 5)


class Life(RuleBasedStateMachine):
    """Workers do anything at any time; the run must keep its promises."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: dict[WorkerId, Worker] = {}
        self.stored = NOTHING
        self.now = 0.0

    @initialize(wanted=st.integers(1, 3))
    def begin(self, wanted: int) -> None:
        self.run = a_run(wanted)

    @rule(letter=st.sampled_from("abc"), state=st.sampled_from(["joining", "preparing", "ready", "training"]))
    def beat(self, letter: str, state: str) -> None:
        shape = ModelShape(units=(UnitShape(name="u", tensors=(TensorShape(name="t", shape=(20_000,)),)),))
        mine = self.run.rank_of(WorkerId(letter * 32)) is not None and state == "training"
        self.workers[WorkerId(letter * 32)] = Worker(
            WorkerId(letter * 32),
            letter,
            Hardware(os="x", cpu_count=1, memory_bytes=2**30, free_disk_bytes=1, legion_version="0"),
            "0" * 64,
            0.0,
            self.now,
            1e9,
            state=state,  # type: ignore[arg-type]
            endpoint=Endpoint(host="h", port=1),
            shape=shape,
            epoch=self.run.epoch if mine else Epoch(0),
            step=self.run.step,
        )

    @rule(letter=st.sampled_from("abc"), done=st.booleans())
    def go(self, letter: str, done: bool) -> None:
        worker = self.workers.get(WorkerId(letter * 32))
        if worker is not None:
            self.workers[worker.worker_id] = leave(worker, self.now)[0] if done else revoke(worker)[0]

    @rule()
    def all_finish(self) -> None:
        self.workers = {i: replace(w, step=self.run.config.steps) for i, w in self.workers.items()}

    @rule()
    def store_last(self) -> None:
        if self.run.phase == "finishing" and self.run.plan:
            self.stored = Stored(frozenset(range(len(self.run.plan.members))), final_ready=True)

    @rule(after=st.floats(0, 100))
    def tick(self, after: float) -> None:
        self.now += after
        before = self.run
        self.run, happenings = tick(before, self.workers, self.now, self.stored)
        allowed = {
            "waiting": {"waiting", "training", "failed"},
            "training": {"training", "finishing", "failed", "complete"},
            "finishing": {"finishing", "complete", "failed"},
            "complete": {"complete"},
            "failed": {"failed"},
        }
        assert self.run.phase in allowed[before.phase]
        assert (self.run.phase != before.phase) == any(happening.type == "phase" for happening in happenings)
        # Pure: the same question has the same answer; and the answer settles.
        assert tick(before, self.workers, self.now, self.stored)[0] == self.run

    @rule()
    def resume(self) -> None:
        if self.run.phase == "failed":
            epoch = self.run.epoch
            self.run, _ = runs.resume(self.run, 0)
            self.stored = NOTHING
            assert self.run.epoch == epoch

    @invariant()
    def promises(self) -> None:
        if not hasattr(self, "run"):
            return
        assert (self.run.failure is not None) == (self.run.phase == "failed")
        assert (self.run.plan is not None) >= (self.run.phase in ("training", "finishing", "complete"))
        if self.run.plan is not None:
            ids = [member.worker_id for member in self.run.plan.members]
            assert ids == sorted(set(ids))
            assert self.run.plan.epoch == self.run.epoch


TestLife = settings(max_examples=60, stateful_step_count=30, deadline=None)(Life).TestCase


@given(st.floats(0, 1e6))
def test_time_alone_never_starts_or_ends_anything(now: float) -> None:
    run = a_run()
    assert tick(run, {}, now, NOTHING) == (run, [])


@pytest.mark.parametrize(
    ("size", "had", "workers", "after"), [(2, 4, 6, 2), (2, 4, 3, 1), (4, 8, 6, 3), (3, 6, 1, 1), (3, 4, 4, 3)]
)
def test_clusters_become_smaller_where_that_many_workers_cannot_form_them(
    size: int, had: int, workers: int, after: int
) -> None:
    config = merge(RunConfig(), {"cluster": {"policy": "fixed", "size": size}, "start": {"workers": had}})
    wanted = runs.wanting(Run(RunId("run-1"), config), workers)
    assert (wanted.config.cluster.size, wanted.config.start.workers) == (after, workers)
    assert config_digest(wanted.config) == config_digest(config)


def rested(workers: dict[WorkerId, Worker], letter: str, **changes: object) -> dict[WorkerId, Worker]:
    """One of them, as it describes itself after it has left to rest."""
    gone = {"state": "paused", "epoch": Epoch(0), "dropped_epoch": Epoch(1)} | changes
    return workers | {WorkerId(letter * 32): replace(workers[WorkerId(letter * 32)], **gone)}  # type: ignore[arg-type]


def test_a_cluster_waits_for_a_member_that_holds(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    holding = rested(workers, "a", epoch=Epoch(1), dropped_epoch=Epoch(0))
    assert tick(run, holding, 500.0, NOTHING) == (run, [])


def test_a_run_resumes_once_all_members_have_let_go_of_a_plan_whose_member_rests(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker, "abc")
    for gone, left in (("a", "b"), ("b", "a")):  # whoever is heard first
        one = rested(workers, gone) if gone == "a" else rested(workers, gone, state="joining")
        one = one if gone == "a" else rested(one, "a", epoch=Epoch(1), dropped_epoch=Epoch(0))
        assert tick(run, one, 1.0, Stored(newest_complete=7)) == (run, []), f"{left} brings its slice"
    others = rested(rested(rested(workers, "a"), "b", state="joining"), "c", state="ready")
    after, happenings = tick(run, others, 1.0, Stored(newest_complete=7))
    assert (after.phase, after.first_step, after.step, after.plan, after.failure) == ("waiting", 7, 7, None, None)
    assert [happening.type for happening in happenings] == ["phase"]
    ready = others | keyed(make_worker("b"), make_worker("c"))
    again, _ = tick(tick(after, ready, 2.0, NOTHING)[0], ready, 62.0, NOTHING)
    assert again.plan is not None
    assert (again.epoch, again.plan.first_step, len(again.plan.members)) == (2, 7, 2)


def test_a_member_that_paused_before_it_began_has_nothing_to_bring(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    after, _ = tick(run, rested(workers, "a", dropped_epoch=Epoch(0)), 1.0, NOTHING)
    assert (after.phase, after.first_step) == ("waiting", 0)


def test_a_member_that_dies_meanwhile_is_not_waited_for(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    workers = rested(workers, "a")
    assert tick(run, workers, 1.0, NOTHING)[0].phase == "training"
    dead = workers | {WorkerId("b" * 32): replace(workers[WorkerId("b" * 32)], state="offline", endpoint=None)}
    assert tick(run, dead, 100.0, NOTHING)[0].phase == "waiting"


def test_one_that_is_resumed_before_the_others_have_left_had_rested_all_the_same(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    back = rested(workers, "a", state="joining", rested_epoch=Epoch(1))
    assert tick(run, back, 1.0, NOTHING) == (run, [])
    assert tick(run, rested(back, "b", state="joining"), 1.0, NOTHING)[0].phase == "waiting"


def test_without_anybody_who_rests_a_loss_is_a_loss(make_worker: MakeWorker) -> None:
    run, workers = in_training(make_worker)
    assert tick(run, rested(workers, "a", state="joining"), 1.0, NOTHING)[0].phase == "failed"
