"""A pause of who holds the model together with others: they may still use its slice, until their round ends."""

from dataclasses import replace

import pytest

from legion.errors import LegionError, PeerLost, StepAborted
from legion.ids import WorkerId
from legion_client.agent.life import (
    DeadlinePassed,
    EndEngine,
    EngineFailed,
    EngineFinished,
    EngineHeld,
    EngineLeft,
    KillEngine,
    PauseAsked,
    Phase,
    PlanArrived,
    PrepareAgain,
    ResumeAsked,
    SendPause,
    SendResume,
    SendStop,
    SetDeadline,
    State,
    Wish,
)
from legion_client.agent.lifecycle import FREE_S, HOLD_S, STOP_S, YIELD_S
from tests.client.agent.test_lifecycle import FREE, PAUSE, TO_READY, follow, in_rounds

SERVE = Wish("a game runs", frees_memory=True, serves=True)


def serving(wish: Wish = SERVE) -> State:
    state, actions = follow(*TO_READY, PlanArrived(in_rounds(3)), PauseAsked(wish))
    after_s = YIELD_S if wish.frees_memory else STOP_S
    assert actions[-2:] == [SendPause(wish.reason, serves=True), SetDeadline(Phase.SERVING, after_s)]
    assert (state.phase, state.said, state.wish) == (Phase.SERVING, "training", wish)
    return state


@pytest.mark.parametrize("wish", [SERVE, replace(SERVE, frees_memory=False)])
def test_a_member_of_a_cluster_serves_until_its_round_ends(wish: Wish) -> None:
    state, actions = follow(EngineHeld(), state=serving(wish))
    assert actions == [SetDeadline(Phase.SERVING, HOLD_S)]
    again, actions = follow(ResumeAsked(), state=state)
    assert (again.phase, again.wish, actions) == (Phase.TRAINING, None, [SendResume()])
    state, actions = follow(EngineLeft(), state=state)
    assert (state.phase, state.wish, actions) == (Phase.PAUSED, wish, [EndEngine()])


def test_a_card_that_is_not_freed_in_time_ends_the_service() -> None:
    state, actions = follow(DeadlinePassed(Phase.SERVING), state=serving())
    rest_s = FREE_S - YIELD_S
    assert actions == [SendStop(SERVE.reason, 0.0, rests=True), SetDeadline(Phase.PAUSING, rest_s)]
    late, actions = follow(DeadlinePassed(Phase.PAUSING), state=state)
    assert (late.phase, actions) == (Phase.PAUSED, [KillEngine(), EndEngine()])


def test_nobody_is_served_for_longer_than_a_pause_keeps_its_engine() -> None:
    state, actions = follow(EngineHeld(), DeadlinePassed(Phase.SERVING), state=serving())
    assert (state.phase, actions[-1]) == (Phase.PAUSING, SetDeadline(Phase.PAUSING, STOP_S))


@pytest.mark.parametrize(("wish", "within_s"), [(PAUSE, STOP_S), (FREE, FREE_S)])
def test_a_wish_that_serves_nobody_ends_the_service(wish: Wish, within_s: float) -> None:
    assert wish.is_more_than(SERVE)
    state, actions = follow(PauseAsked(wish), state=serving())
    assert (state.phase, state.wish, actions[-1]) == (Phase.PAUSING, wish, SetDeadline(Phase.PAUSING, within_s))


def test_who_serves_frees_its_card_in_time_when_that_is_asked_for_later() -> None:
    state = serving(replace(SERVE, frees_memory=False))
    assert SERVE.is_more_than(state.wish)
    in_time = [SetDeadline(Phase.SERVING, YIELD_S)]
    assert follow(PauseAsked(SERVE), state=state) == (replace(state, wish=SERVE), in_time)
    held, _ = follow(EngineHeld(), state=state)
    assert follow(PauseAsked(SERVE), state=held) == (replace(held, wish=SERVE), [])


def test_who_resumes_while_its_engine_leaves_comes_back() -> None:
    state, actions = follow(EngineHeld(), ResumeAsked(), EngineLeft(), state=serving())
    assert (state.phase, state.error, actions[-1]) == (Phase.JOINING, None, PrepareAgain())


@pytest.mark.parametrize("error", [PeerLost("gone"), StepAborted("nobody computes")])
def test_a_cluster_that_ends_ends_the_service(error: LegionError) -> None:
    state, actions = follow(EngineFailed(error, lost_peer=WorkerId("b" * 32)), state=serving())
    assert (state.phase, state.crashes, actions) == (Phase.PAUSED, (), [EndEngine()])


def test_a_run_that_completes_meanwhile_is_complete() -> None:
    assert follow(EngineFinished(), state=serving())[0].phase is Phase.FINISHING


def test_whoever_trains_alone_serves_nobody() -> None:
    state, _ = follow(*TO_READY, PlanArrived(in_rounds()), PauseAsked(SERVE))
    assert state.phase is Phase.PAUSING
    state, _ = follow(*TO_READY, PlanArrived(in_rounds()), PauseAsked(replace(SERVE, frees_memory=False)))
    assert state.phase is Phase.HOLDING
