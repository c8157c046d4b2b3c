"""The agent's state machine while a run that it is ready for does not begin."""

import pytest

from legion.errors import RunError
from legion.ids import ClusterId, Epoch
from legion_client.agent.life import (
    ConfigChanged,
    DeadlinePassed,
    Doze,
    EngineFailed,
    EngineGone,
    EngineListens,
    EpochSeen,
    FetchSlice,
    KillEngine,
    PauseAsked,
    Phase,
    PlanArrived,
    PrepareAgain,
    RunPhaseSeen,
    SendTrain,
    SetDeadline,
    StartEngine,
    StopAsked,
    Wish,
)
from legion_client.agent.lifecycle import WAKE_S
from tests.client.agent.test_lifecycle import DEATH, STARTED, TO_READY, follow, plan

NO_CLUSTER = plan().cluster
TO_DOZING = (*TO_READY, DeadlinePassed(Phase.READY))


def test_who_waits_for_long_keeps_no_engine_and_starts_one_for_the_plan() -> None:
    state, actions = follow(*TO_DOZING)
    assert (state.phase, state.said, actions) == (Phase.DOZING, "ready", [*STARTED, Doze()])
    assert follow(EngineGone(DEATH), state=state) == (state, [])
    state, actions = follow(PlanArrived(plan()), state=state)
    assert (state.phase, state.said, state.epoch) == (Phase.WAKING, "training", 1)
    assert actions == [StartEngine(), SetDeadline(Phase.WAKING, WAKE_S)]
    state, actions = follow(EngineListens(), state=state)
    assert (state.phase, actions) == (Phase.TRAINING, [SendTrain(plan(), None)])


@pytest.mark.parametrize(("arrives", "slice_of"), [((40, False), 40), ((0, True), 0)])
def test_an_engine_that_was_woken_begins_where_another_would(arrives: tuple[int, bool], slice_of: int) -> None:
    first_step, kept = arrives
    state, actions = follow(*TO_DOZING, PlanArrived(plan(first_step), kept), EngineListens())
    assert (state.phase, actions[-1]) == (Phase.LOADING, FetchSlice(plan(slice_of)))


def test_dozing_ends_in_every_way_that_waiting_does() -> None:
    ends = {
        ConfigChanged(): Phase.JOINING,
        PauseAsked(Wish("in use")): Phase.PAUSED,
        RunPhaseSeen("complete"): Phase.LEAVING,
        StopAsked("Ctrl-C"): Phase.LEAVING,
    }
    assert {event: follow(*TO_DOZING, event)[0].phase for event in ends} == ends
    failed, _ = follow(*TO_DOZING, RunPhaseSeen("failed"))
    assert isinstance(failed.error, RunError)


@pytest.mark.parametrize("cluster", [NO_CLUSTER, ClusterId("c1")])
def test_where_it_listened_another_program_may_listen_by_now(cluster: ClusterId) -> None:
    state, _ = follow(*TO_DOZING, PlanArrived(plan().model_copy(update={"cluster": cluster})))
    again, actions = follow(EngineFailed(RunError("the port is taken"), at=1.0), state=state)
    assert (again.phase, again.plan, actions) == (Phase.JOINING, None, [PrepareAgain()])
    late, actions = follow(DeadlinePassed(Phase.WAKING, 1.0), state=state)
    assert (late.phase, actions) == (Phase.JOINING, [KillEngine(), PrepareAgain()])
    resumed, actions = follow(EpochSeen(Epoch(2)), state=state)
    assert (resumed.phase, actions) == (Phase.JOINING, [PrepareAgain()])
