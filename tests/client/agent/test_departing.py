"""A pause in a run without rounds: its only cluster waits, and goes on without a member that pauses for long."""

import asyncio
from pathlib import Path

import pytest

from legion.errors import EngineDied, PeerLost, PeerPaused
from legion.messages import Plan
from legion_client.agent.host import Host
from legion_client.agent.life import (
    DeadlinePassed,
    Drain,
    Drained,
    EndEngine,
    EngineFailed,
    EngineGone,
    EngineLeft,
    EpochSeen,
    Event,
    PauseAsked,
    Phase,
    PlanArrived,
    PrepareAgain,
    ResumeAsked,
    SendPause,
    SendStop,
    SetDeadline,
    State,
    StopAsked,
    Wish,
)
from legion_client.agent.lifecycle import DEPART_S, FREE_S, HOLD_S
from tests.client.agent.hosting import RunningServer, hosted, reaches, trains
from tests.client.agent.test_lifecycle import DEATH, TO_READY, follow, plan

PAUSE = Wish("the volunteer asked")
OF_TWO = plan().model_copy(update={"members": plan().members * 2})
TRAINING: tuple[Event, ...] = (*TO_READY, PlanArrived(OF_TWO))
GONE = (EngineFailed(PeerPaused("b is paused")), EngineGone(DEATH))


def test_a_cluster_waits_for_a_member_that_pauses() -> None:
    state, actions = follow(*TRAINING, PauseAsked(PAUSE))
    assert (state.phase, state.said, state.epoch) == (Phase.HOLDING, "paused", OF_TWO.epoch)
    assert actions[-2:] == [SendPause(PAUSE.reason), SetDeadline(Phase.HOLDING, HOLD_S)]
    assert follow(ResumeAsked(), state=state)[0] == State(Phase.TRAINING, OF_TWO)


@pytest.mark.parametrize(
    ("events", "within"),
    [((PauseAsked(PAUSE), DeadlinePassed(Phase.HOLDING)), 0.0), ((PauseAsked(Wish("a game", True)),), 0.0)],
)
def test_a_long_pause_and_one_that_needs_the_memory_leave_when_the_server_has_the_slice(
    events: tuple[Event, ...], within: float
) -> None:
    state, actions = follow(*TRAINING, *events)
    stop = next(action for action in actions if isinstance(action, SendStop))
    assert (stop.rests, stop.within_s, state.phase) == (True, within, Phase.PAUSING)
    state, actions = follow(EngineLeft(), EngineGone(DEATH), state=state)
    assert (state.phase, state.epoch, state.said) == (Phase.PAUSING, OF_TWO.epoch, "paused")
    assert actions == [Drain(), SetDeadline(Phase.PAUSING, DEPART_S)]
    for last in (Drained(), DeadlinePassed(Phase.PAUSING)):
        assert follow(last, state=state) == (State(Phase.PAUSED, wish=state.wish), [EndEngine()])


def test_those_that_are_left_bring_their_slices_and_come_back() -> None:
    state, actions = follow(*TRAINING, *GONE)
    assert (state.phase, state.epoch, state.error) == (Phase.TRAINING, OF_TWO.epoch, None)
    assert actions[-2:] == [Drain(), SetDeadline(Phase.TRAINING, DEPART_S)]
    assert follow(Drained(), state=state) == (State(), [PrepareAgain()])
    assert follow(EpochSeen(0), state=state) == (State(), [PrepareAgain()])
    paused, actions = follow(PauseAsked(PAUSE), Drained(), state=state)
    assert (paused, actions) == (State(Phase.PAUSED, wish=PAUSE), [EndEngine()])
    assert follow(StopAsked("Ctrl-C"), state=state)[0].phase is Phase.LEAVING


def test_two_may_pause_at_once() -> None:
    state, actions = follow(*TRAINING, PauseAsked(PAUSE), *GONE)
    assert (state.phase, actions[-2]) == (Phase.HOLDING, Drain())
    assert follow(Drained(), state=state) == (State(Phase.PAUSED, wish=PAUSE), [EndEngine()])
    back, actions = follow(ResumeAsked(), Drained(), state=state)
    assert (back, actions) == (State(), [PrepareAgain()])


def test_a_member_that_is_lost_is_not_one_that_pauses() -> None:
    state, _ = follow(*TRAINING, EngineFailed(PeerLost("b has stopped")))
    assert state.phase is Phase.LEAVING
    assert follow(*TRAINING, EngineGone(EngineDied("SIGKILL")))[0].phase is Phase.LEAVING


def test_the_memory_is_free_in_time() -> None:
    _, actions = follow(*TRAINING, PauseAsked(Wish("a game", True)))
    assert actions[-1] == SetDeadline(Phase.PAUSING, FREE_S)


async def trains_by(host: Host, members: int) -> Plan:
    """Returns once it has made a step by a plan of so many; that plan."""
    while True:
        await reaches(host, Phase.TRAINING)
        await trains(host)
        assert host.agent is not None
        plan = host.agent.state.plan
        if plan is not None and len(plan.members) == members:
            return plan


async def phase(run: RunningServer) -> str:
    return str((await asyncio.to_thread(run.call, "GET", "/metrics"))["phase"])


@pytest.mark.timeout(300)
async def test_a_run_waits_for_a_short_pause_and_goes_on_without_a_member_that_pauses_for_long(
    server: RunningServer, tmp_path: Path
) -> None:
    server.configure(steps=100_000, start={"workers": 2, "wait_s": 5.0}, checkpoint={"every_steps": 50_000})
    async with hosted(server, tmp_path / "first") as (first, desk), hosted(server, tmp_path / "second") as (second, _):
        plan = await trains_by(first, 2)
        assert await trains_by(second, 2) == plan
        # A short pause: nobody leaves.
        await desk.pause(None)
        await reaches(first, Phase.HOLDING)
        await desk.resume()
        assert await trains_by(second, 2) == plan
        done = await trains(second)
        # One that ends the engine: the other goes on by itself, from the last step that both have done.
        await desk.mode("network", "never", None)
        await reaches(first, Phase.PAUSED)
        alone = await trains_by(second, 1)
        assert alone.epoch == plan.epoch + 1
        assert alone.first_step >= done, "every step that was committed stays"
        assert await phase(server) == "training"
        metrics = await asyncio.to_thread(server.call, "GET", "/metrics")
        steps = [step["step"] for step in metrics["recent"]]
        assert steps == list(range(steps[0], steps[0] + len(steps))), "no step is done twice or left out"
