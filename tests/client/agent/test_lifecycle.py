"""The agent's state machine: the way through a run, every way out of it, and what holds for any order of events."""

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.errors import EngineDied, LegionError, PeerLost, RunError, StepAborted, WorkerRevoked
from legion.ids import ClusterId, Epoch, RunId, WorkerId
from legion.messages import Endpoint, Member, ModelShape, Plan, RunPhase, TensorShape, UnitShape, WorkerState
from legion_client.agent.life import (
    Action,
    ConfigChanged,
    DeadlinePassed,
    Downloaded,
    Drain,
    Drained,
    EndEngine,
    EngineFailed,
    EngineFinished,
    EngineGone,
    EngineHeld,
    EngineLeft,
    EngineListens,
    EpochSeen,
    Event,
    FetchSlice,
    FinishAsked,
    KillEngine,
    PartFailed,
    PauseAsked,
    Phase,
    PlanArrived,
    PrepareAgain,
    ResumeAsked,
    RunPhaseSeen,
    RunSeen,
    SendPause,
    SendResume,
    SendStop,
    SendTrain,
    SetDeadline,
    SliceBuilt,
    StartEngine,
    State,
    StopAsked,
    Wish,
)
from legion_client.agent.lifecycle import (
    DOZE_S,
    FREE_S,
    HOLD_S,
    LEAVE_S,
    PREPARE_S,
    STEP_S,
    transition,
)
from legion_client.agent.rejoin import WayBack

SHAPE = ModelShape(units=(UnitShape(name="all", tensors=(TensorShape(name="w", shape=(4096,)),)),))
SLICE = Path("slice.safetensors")
DEATH = EngineDied("the engine was killed by SIGKILL")


def plan(first_step: int = 0, epoch: int = 1) -> Plan:
    member = Member(worker_id=WorkerId("a" * 32), endpoint=Endpoint(host="127.0.0.1", port=1), share=1)
    return Plan(
        run_id=RunId("run-1"),
        epoch=Epoch(epoch),
        members=(member,),
        shape=SHAPE,
        first_step=first_step,
        config_digest="0" * 64,
    )


def follow(*events: Event, state: State | None = None) -> tuple[State, list[Action]]:
    state, actions = state or State(), []
    for event in events:
        state, new = transition(state, event)
        actions.extend(new)
    return state, actions


TO_READY = (Downloaded(), EngineListens())
STARTED = (StartEngine(), SetDeadline(Phase.PREPARING, PREPARE_S), SetDeadline(Phase.READY, DOZE_S))


def test_a_run_from_the_start_to_its_end() -> None:
    state, actions = follow(*TO_READY, PlanArrived(plan()), EngineFinished(), EngineGone(DEATH), Drained())
    assert state == State(Phase.ENDED, plan())
    assert actions == [*STARTED, SendTrain(plan(), None), Drain()]


def test_a_resumed_run_fetches_its_slice_before_it_trains() -> None:
    state, actions = follow(*TO_READY, PlanArrived(plan(first_step=40)))
    assert (state.phase, state.said, state.epoch) == (Phase.LOADING, "training", 1)
    assert actions[-1] == FetchSlice(plan(first_step=40))
    state, actions = follow(SliceBuilt(SLICE), state=state)
    assert (state.phase, actions) == (Phase.TRAINING, [SendTrain(plan(first_step=40), SLICE)])


@pytest.mark.parametrize("first_step", [0, 40])
def test_what_an_engine_before_kept_is_looked_at_first(first_step: int) -> None:
    state, actions = follow(*TO_READY, PlanArrived(plan(first_step=first_step), kept=True))
    assert (state.phase, actions[-1]) == (Phase.LOADING, FetchSlice(plan(first_step=first_step)))
    back = WayBack(SLICE, "updates", 3)
    state, actions = follow(SliceBuilt(None, back), state=state)
    assert (state.phase, actions) == (Phase.TRAINING, [SendTrain(plan(first_step=first_step), None, back)])


def test_finishing_has_no_deadline_until_somebody_asks_to_stop() -> None:
    state, actions = follow(*TO_READY, PlanArrived(plan()), EngineFinished())
    assert actions[-1] == Drain()
    state, actions = follow(StopAsked("Ctrl-C"), state=state)
    assert state.phase is Phase.LEAVING
    assert SetDeadline(Phase.LEAVING, LEAVE_S) in actions


def test_stop_while_training_asks_the_engine_and_ends_without_an_error() -> None:
    state, actions = follow(*TO_READY, PlanArrived(plan()), StopAsked("Ctrl-C"))
    assert (state.phase, state.said) == (Phase.STOPPING, "leaving")
    assert SendStop("Ctrl-C", STEP_S) in actions
    state, _ = follow(EngineLeft(), Drained(), state=state)
    assert (state.phase, state.error) == (Phase.ENDED, None)


def test_an_engine_without_a_plan_is_not_asked() -> None:
    state, actions = follow(*TO_READY, StopAsked("Ctrl-C"))
    assert (state.phase, KillEngine() in actions, Drain() in actions) == (Phase.LEAVING, True, True)


def test_an_engine_that_ignores_stop_is_killed() -> None:
    state, _ = follow(*TO_READY, PlanArrived(plan()), StopAsked("Ctrl-C"))
    state, actions = follow(DeadlinePassed(Phase.STOPPING), state=state)
    assert (state.phase, KillEngine() in actions) == (Phase.LEAVING, True)
    state, _ = follow(DeadlinePassed(Phase.LEAVING), state=state)
    assert state.phase is Phase.ENDED


def test_a_late_deadline_of_a_phase_left_behind_changes_nothing() -> None:
    state, _ = follow(*TO_READY, PlanArrived(plan()), StopAsked("Ctrl-C"), EngineLeft())
    assert transition(state, DeadlinePassed(Phase.STOPPING)) == (state, ())


def test_an_engine_killed_while_it_trains_is_reported() -> None:
    state, _ = follow(*TO_READY, PlanArrived(plan()), EngineGone(DEATH))
    assert (state.phase, state.error) == (Phase.LEAVING, DEATH)


def test_the_engine_knows_better_than_the_server_why_the_run_failed() -> None:
    lost = WorkerId("b" * 32)
    state, _ = follow(*TO_READY, PlanArrived(plan()), RunPhaseSeen("failed"))
    assert isinstance(state.error, RunError)
    error = PeerLost("b left")
    state, _ = follow(EngineFailed(error, lost), state=state)
    assert (state.error, state.lost_peer) == (error, lost)


def test_a_cluster_among_others_that_loses_a_member_comes_back() -> None:
    lost = WorkerId("b" * 32)
    of_many = plan().model_copy(update={"cluster": ClusterId("c1")})
    state, actions = follow(*TO_READY, PlanArrived(of_many), EngineFailed(PeerLost("b left"), lost))
    assert actions[-1:] == [PrepareAgain()]
    assert (state.phase, state.plan, state.lost_peer, state.error) == (Phase.JOINING, None, lost, None)
    # It may be back: a plan that has it again is not given up for what was.
    again, _ = follow(*TO_READY, PlanArrived(of_many), state=state)
    assert (again.phase, again.lost_peer) == (Phase.TRAINING, None)
    # Its own process is on its way out: that is no news.
    assert follow(EngineGone(DEATH), state=state) == (state, [])
    # Nor is a plan that was broken off for another member, which then did not come.
    state, actions = follow(*TO_READY, PlanArrived(of_many), EngineFailed(StepAborted("broken off"), None))
    assert (state.phase, state.error, actions[-1:]) == (Phase.JOINING, None, [PrepareAgain()])
    # What is not a peer's fault ends it as everywhere.
    state, _ = follow(*TO_READY, PlanArrived(of_many), EngineFailed(RunError("no")))
    assert state.phase is Phase.LEAVING


def test_the_cause_is_kept_when_its_consequences_follow() -> None:
    revoked = WorkerRevoked("revoked")
    state, _ = follow(*TO_READY, PlanArrived(plan()), PartFailed(revoked), EngineGone(DEATH), Drained())
    assert (state.phase, state.error) == (Phase.ENDED, revoked)


def test_a_worker_never_planned_in_leaves_when_the_run_completes() -> None:
    state, actions = follow(*TO_READY, RunPhaseSeen("complete"))
    assert (state.phase, state.error) == (Phase.LEAVING, None)
    assert KillEngine() in actions


def test_a_changed_configuration_is_prepared_for_anew() -> None:
    state, actions = follow(*TO_READY, ConfigChanged())
    assert (state.phase, actions[-1]) == (Phase.JOINING, PrepareAgain())
    state, actions = follow(*TO_READY, PlanArrived(plan()), state=state)
    assert (state.phase, actions) == (
        Phase.TRAINING,
        [*STARTED, SendTrain(plan(), None)],
    )
    assert transition(state, ConfigChanged()) == (state, ())


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("first_step", [0, 40])
def test_a_plan_given_up_is_followed_no_longer(first_step: int, epoch: int) -> None:
    following, _ = follow(*TO_READY, PlanArrived(plan(first_step)))
    state, actions = follow(EpochSeen(Epoch(epoch)), state=following)
    assert (state, actions) == (State(Phase.JOINING), [PrepareAgain()])
    assert (state.said, state.epoch) == ("joining", 0)
    late, actions = follow(SliceBuilt(SLICE), EngineFinished(), EngineGone(DEATH), state=state)
    assert (late, actions) == (state, [])
    again, actions = follow(*TO_READY, PlanArrived(plan(epoch=3)), state=state)
    assert (again, actions[-1]) == (State(Phase.TRAINING, plan(epoch=3)), SendTrain(plan(epoch=3), None))


def test_only_another_epoch_than_the_followed_one_counts() -> None:
    ready, _ = follow(*TO_READY)
    training, _ = follow(PlanArrived(plan()), state=ready)
    finishing, _ = follow(EngineFinished(), state=training)
    stopping, _ = follow(StopAsked("Ctrl-C"), state=training)
    for state, epoch in ((ready, 1), (training, 1), (finishing, 0), (stopping, 0)):
        assert transition(state, EpochSeen(Epoch(epoch))) == (state, ())


def test_a_member_hears_of_completion_from_its_engine_only() -> None:
    state, _ = follow(*TO_READY, PlanArrived(plan()))
    assert transition(state, RunPhaseSeen("complete")) == (state, ())


PAUSE = Wish("the volunteer asked")
FREE = Wish("a game runs", frees_memory=True)


def in_rounds(members: int = 1) -> Plan:
    alone = plan()
    return alone.model_copy(update={"cluster": ClusterId("c1"), "members": alone.members * members})


def test_a_pause_of_one_that_trains_alone_keeps_its_engine() -> None:
    state, actions = follow(*TO_READY, PlanArrived(in_rounds()), PauseAsked(PAUSE))
    assert actions[-2:] == [SendPause(PAUSE.reason), SetDeadline(Phase.HOLDING, HOLD_S)]
    assert (state.phase, state.said, state.epoch) == (Phase.HOLDING, "paused", 1)
    again, actions = follow(ResumeAsked(), state=state)
    assert (again, actions) == (State(Phase.TRAINING, in_rounds()), [SendResume()])


def test_a_long_pause_gives_the_memory_back() -> None:
    state, actions = follow(*TO_READY, PlanArrived(in_rounds()), PauseAsked(PAUSE), DeadlinePassed(Phase.HOLDING))
    assert (state.phase, actions[-2]) == (Phase.PAUSING, SendStop(PAUSE.reason, 0.0, rests=True))
    state, actions = follow(EngineLeft(), EngineGone(DEATH), state=state)
    assert (state, actions) == (State(Phase.PAUSED, wish=PAUSE), [EndEngine()])
    assert (state.said, state.epoch) == ("paused", 0)
    state, actions = follow(ResumeAsked(), state=state)
    assert (state, actions) == (State(Phase.JOINING), [PrepareAgain()])


@pytest.mark.parametrize("before", [(), (PauseAsked(PAUSE),)])
def test_a_pause_that_needs_the_memory_ends_the_engine_in_time(before: tuple[Event, ...]) -> None:
    state, actions = follow(*TO_READY, PlanArrived(in_rounds()), *before, PauseAsked(FREE))
    assert (state.phase, actions[-2:]) == (
        Phase.PAUSING,
        [SendStop(FREE.reason, 0.0, rests=True), SetDeadline(Phase.PAUSING, FREE_S)],
    )
    late, actions = follow(DeadlinePassed(Phase.PAUSING), state=state)
    assert (late.phase, actions) == (Phase.PAUSED, [KillEngine(), EndEngine()])


def test_a_member_of_a_cluster_leaves_it_to_the_others() -> None:
    state, actions = follow(*TO_READY, PlanArrived(in_rounds(3)), PauseAsked(PAUSE))
    assert (state.phase, isinstance(actions[-2], SendStop)) == (Phase.PAUSING, True)
    # Resumed before it had ended: it ends all the same, and comes back.
    state, actions = follow(ResumeAsked(), EngineLeft(), state=state)
    assert (state, actions) == (State(Phase.JOINING), [PrepareAgain()])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_pause_before_there_is_work_has_no_engine(count: int) -> None:
    state, actions = follow(*TO_READY[:count], PauseAsked(PAUSE))
    assert (state.phase, actions[-1]) == (Phase.PAUSED, EndEngine())
    late, actions = follow(*TO_READY, PlanArrived(plan()), state=state)
    assert (late, actions) == (state, [])


def test_finish_contributes_before_it_pauses() -> None:
    state, actions = follow(*TO_READY, PlanArrived(in_rounds()), FinishAsked())
    assert (state.phase, actions[-1].__class__) == (Phase.TRAINING, SendPause)
    state, _ = follow(EngineHeld(), state=state)
    assert (state.phase, state.finishing) == (Phase.HOLDING, False)
    # Taken back in time, it changes nothing.
    state, actions = follow(*TO_READY, PlanArrived(in_rounds()), FinishAsked(), ResumeAsked())
    assert (state, actions[-1]) == (State(Phase.TRAINING, in_rounds()), SendResume())
    assert follow(EngineHeld(), state=state) == (state, [])


def crash(at: float) -> tuple[Event, ...]:
    return *TO_READY, PlanArrived(in_rounds()), EngineGone(DEATH, at)


def test_an_engine_that_crashes_is_started_again_until_it_is_hopeless() -> None:
    state, actions = follow(*crash(0.0), *crash(1.0))
    assert (state.phase, actions[-1], len(state.crashes)) == (Phase.JOINING, PrepareAgain(), 2)
    state, actions = follow(*crash(2.0), state=state)
    assert (state.phase, state.trouble, actions[-1]) == (Phase.PAUSED, DEATH, EndEngine())
    # No rule starts it again; who reads why it rests may.
    assert follow(PauseAsked(PAUSE), ResumeAsked(), state=state)[0].phase is Phase.PAUSED
    state, actions = follow(ResumeAsked(in_person=True), state=state)
    assert (state, actions) == (State(Phase.JOINING), [PrepareAgain()])


def test_crashes_far_apart_are_no_reason_to_rest() -> None:
    state, _ = follow(*crash(0.0), *crash(400.0), *crash(800.0), *crash(1200.0))
    assert (state.phase, state.crashes) == (Phase.JOINING, (800.0, 1200.0))


def test_a_hopeless_engine_ends_an_agent_that_nobody_watches() -> None:
    state, _ = follow(*crash(0.0), *crash(1.0), *crash(2.0), state=State(unattended=True))
    assert (state.phase, state.error) == (Phase.LEAVING, DEATH)


_errors: st.SearchStrategy[LegionError] = st.sampled_from([PeerLost("left"), WorkerRevoked("gone"), DEATH])
_events: st.SearchStrategy[Event] = st.one_of(
    st.sampled_from(
        [Downloaded(), EngineListens(), EngineFinished(), EngineLeft(), Drained(), SliceBuilt(SLICE), ConfigChanged()]
    ),
    st.builds(lambda first: PlanArrived(plan(first)), st.sampled_from([0, 7])),
    st.builds(EpochSeen, st.sampled_from([Epoch(0), Epoch(1)])),
    st.builds(RunPhaseSeen, st.sampled_from(get_args(RunPhase))),
    st.builds(EngineFailed, _errors),
    st.just(EngineGone(DEATH)),
    st.builds(RunSeen, st.sampled_from([RunId("run-1"), RunId("run-2")])),
    st.just(StopAsked("Ctrl-C")),
    st.builds(PartFailed, _errors),
    st.builds(DeadlinePassed, st.sampled_from(list(Phase))),
    st.builds(PauseAsked, st.sampled_from([PAUSE, FREE])),
    st.sampled_from([FinishAsked(), ResumeAsked(), ResumeAsked(in_person=True), EngineHeld()]),
)
# Events that may lead back: of a run's phases, that it goes on.
BACK = (ConfigChanged, EpochSeen, EngineGone, EngineFailed, ResumeAsked, RunPhaseSeen, RunSeen)


@given(st.lists(_events, max_size=30), st.booleans())
def test_whatever_happens_in_whatever_order(events: list[Event], waits: bool) -> None:
    state, seen = State(waits=waits), []
    starts = trains = drains = 0
    for event in events:
        before = state
        state, actions = transition(state, event)
        seen.append(state.phase)
        assert state.said in get_args(WorkerState)
        starts += sum(isinstance(action, StartEngine) for action in actions)
        trains += sum(isinstance(action, SendTrain) for action in actions)
        drains += sum(isinstance(action, Drain) for action in actions)
        if before.phase is Phase.ENDED:
            assert (state, actions) == (before, ())
        if before.error is not None:
            assert state.error is not None
        # Every way out has a deadline or an unlimited drain behind it: nothing waits for what will never come.
        entered = state.phase if state.phase is not before.phase else None
        if entered in (Phase.STOPPING, Phase.PAUSING, Phase.SERVING, Phase.HOLDING):
            assert any(isinstance(action, SetDeadline) and action.phase is state.phase for action in actions)
        if state.phase in (Phase.PAUSED, Phase.JOINING) and state.phase is not before.phase:
            assert actions[-1] in (EndEngine(), PrepareAgain())
            assert (state.plan, state.phase is Phase.PAUSED) == (None, bool(state.wish or state.trouble))
        if state.phase in (Phase.FINISHING, Phase.LEAVING) and state.phase is not before.phase:
            assert Drain() in actions
    back = sum(isinstance(event, BACK) for event in events)
    assert starts <= 1 + back
    assert trains <= 1 + back
    assert drains <= 2 + back
    order = list(Phase)
    if not back:
        assert seen == sorted(seen, key=order.index)


@given(st.lists(_events, max_size=30), st.lists(_events, max_size=10))
def test_stop_always_ends(before: list[Event], after: list[Event]) -> None:
    state, _ = follow(*before, StopAsked("Ctrl-C"), *after)
    state, _ = follow(DeadlinePassed(Phase.STOPPING), DeadlinePassed(Phase.LEAVING), state=state)
    assert state.phase is Phase.ENDED


def test_an_engine_that_never_gets_ready_counts_as_crashed() -> None:
    state, actions = follow(Downloaded())
    assert actions == [StartEngine(), SetDeadline(Phase.PREPARING, PREPARE_S)]
    for at in (1000.0, 1100.0):
        state, actions = follow(DeadlinePassed(Phase.PREPARING, at), state=state)
        assert (state.phase, actions) == (Phase.JOINING, [KillEngine(), PrepareAgain()])
        state, _ = follow(Downloaded(), state=state)
    state, actions = follow(DeadlinePassed(Phase.PREPARING, 1200.0), state=state)
    assert (state.phase, actions) == (Phase.PAUSED, [KillEngine(), EndEngine()])
    assert "not ready within 15 min" in str(state.trouble)
    ready, _ = follow(Downloaded(), EngineListens())
    assert transition(ready, DeadlinePassed(Phase.PREPARING, 1000.0)) == (ready, ())
