"""What the agent does when the run is paused, stopped, over, or followed by another."""

import pytest

from legion.ids import RunId
from legion_client.agent.life import (
    DeadlinePassed,
    Drained,
    EndEngine,
    EngineFinished,
    EngineLeft,
    PauseAsked,
    Phase,
    PlanArrived,
    PrepareAgain,
    RunPhaseSeen,
    RunSeen,
    SendPause,
    SendResume,
    SendStop,
    SetDeadline,
    State,
    StopAsked,
)
from legion_client.agent.lifecycle import HALTED, HOLD_S, transition
from tests.client.agent.test_lifecycle import PAUSE, TO_READY, follow, in_rounds, plan

NEXT = RunId("run-2")
TO_THE_END = (*TO_READY, RunSeen(RunId("run-1")), PlanArrived(in_rounds()), EngineFinished(), Drained())


def test_who_waits_begins_anew_with_the_next_run() -> None:
    over, actions = follow(*TO_THE_END, state=State(waits=True))
    assert (over.phase, over.plan, over.said, actions[-1]) == (Phase.WAITING, None, "joining", EndEngine())
    # Its last checkpoint is being assembled, or it is over: nothing to do.
    for phase in ("training", "finishing", "complete"):
        assert transition(over, RunPhaseSeen(phase)) == (over, ())
    assert transition(over, RunSeen(RunId("run-1"))) == (over, ())
    state, actions = follow(RunSeen(NEXT), state=over)
    assert (state, actions) == (State(Phase.JOINING, waits=True, run=NEXT), [PrepareAgain()])
    left, _ = follow(StopAsked("Ctrl-C"), Drained(), state=over)
    assert (left.phase, left.error) == (Phase.ENDED, None)


def test_who_does_not_wait_ends_with_its_run() -> None:
    assert follow(*TO_THE_END)[0].phase is Phase.ENDED


@pytest.mark.parametrize("count", range(len(TO_THE_END)))
def test_another_run_is_followed_from_everywhere(count: int) -> None:
    state, _ = follow(RunSeen(RunId("run-1")), *TO_THE_END[:count], state=State(waits=True))
    state, actions = follow(RunSeen(NEXT), state=state)
    assert (state, actions) == (State(Phase.JOINING, waits=True, run=NEXT), [PrepareAgain()])


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("count", range(4))
def test_a_run_that_is_stopped_ends_without_an_error(count: int, waits: bool) -> None:
    state, actions = follow(*TO_THE_END[:count], RunPhaseSeen("stopped"), state=State(waits=waits))
    if waits:
        assert (state.phase, actions[-1]) == (Phase.WAITING, EndEngine())
        return
    state, _ = follow(EngineLeft(), Drained(), state=state)
    assert (state.phase, state.error) == (Phase.ENDED, None)


def test_a_run_that_is_paused_holds_its_engines_and_gives_their_memory_back() -> None:
    for followed, told in ((in_rounds(), []), (plan(), [SendPause(HALTED)])):
        state, actions = follow(*TO_READY, PlanArrived(followed), RunPhaseSeen("paused"), RunPhaseSeen("paused"))
        assert (state.phase, state.said, state.wish) == (Phase.HOLDING, "paused", None)
        assert actions[-1 - len(told) :] == [*told, SetDeadline(Phase.HOLDING, HOLD_S)]
        again, actions = follow(RunPhaseSeen("training"), state=state)
        assert (again.phase, actions) == (Phase.TRAINING, [SendResume()])
        # The volunteer's own wish goes further, and outlasts it.
        state, actions = follow(PauseAsked(PAUSE), RunPhaseSeen("training"), state=state)
        assert (state.phase, actions[0], SendResume() in actions) == (Phase.HOLDING, SendPause(PAUSE.reason), False)
    state, _ = follow(*TO_READY, PlanArrived(in_rounds()), RunPhaseSeen("paused"))
    state, actions = follow(DeadlinePassed(Phase.HOLDING), EngineLeft(), state=state)
    assert (state.phase, actions[0]) == (Phase.JOINING, SendStop(HALTED, 0.0, rests=True))
