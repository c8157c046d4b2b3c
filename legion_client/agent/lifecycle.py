"""The agent's life as a pure state machine: state and event in, state and actions out. The words are in `life`."""

from dataclasses import replace

from legion.errors import EngineDied, LegionError, PeerLost, PeerPaused, RunError, StepAborted
from legion.ids import RunId
from legion.messages import Plan, RunPhase
from legion_client.agent import restarts
from legion_client.agent.life import (
    BUSY,
    UNPLANNED,
    Action,
    ConfigChanged,
    DeadlinePassed,
    Downloaded,
    Doze,
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
    PlanCannotGoOn,
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

WAKE_S = 100.0  # for an engine that others of its plan wait for: they give up after two minutes
PREPARE_S = 900.0  # for an engine to start and build its model; a driver that hangs would keep it for ever
STOP_S = 30.0  # for the engine to finish or abort its step
DEPART_S = 120.0  # to send the slice that others go on from
LEAVE_S = 15.0  # to send what is left
STEP_S = 2.0  # for the step under way of an engine that is told to stop: what a system that shuts down leaves time for
FREE_S = 4.0  # for an engine whose memory somebody needs; with its end, less than five
YIELD_S = 2.0  # of these, for one that is to serve from host memory: then it must end
HOLD_S = 600.0  # a pause that lasts longer gives the engine's memory back, whoever it serves
DOZE_S = 600.0  # so does waiting for a run that does not begin
FOLLOWING = (Phase.WAKING, Phase.LOADING, Phase.TRAINING, Phase.SERVING, Phase.HOLDING)
TOGETHER = (Phase.TRAINING, Phase.SERVING, Phase.HOLDING)
OVER = ("complete", "stopped")  # of a run's phases
HALTED = "the run is paused by its operator"
FINISHED = Wish("this round is finished, as you asked")

Next = tuple[State, tuple[Action, ...]]


def transition(state: State, event: Event) -> Next:
    """What follows from `event`. Every event is allowed in every state: late news of a phase left behind is ignored."""
    if state.phase is Phase.ENDED:
        return state, ()
    match event:
        case StopAsked(reason):
            return _stop(state, reason)
        case PartFailed(error):
            return _stop(_blame(state, error), str(error))
        case RunPhaseSeen(run_phase):
            return _run_phase(state, run_phase)
        case RunSeen(run):
            return _run(state, run)
        case EngineFinished() | EngineLeft() | EngineFailed() | EngineGone():
            return _engine_ended(state, event)
        case PauseAsked() | FinishAsked() | ResumeAsked() | EngineHeld():
            return _rest_or_go_on(state, event)
        case Drained() if state.departing:
            return _without_engine(state)
        case Drained() if state.phase is Phase.FINISHING and state.waits:
            return _await_next(state)
        case Drained() if state.phase in (Phase.FINISHING, Phase.LEAVING):
            return replace(state, phase=Phase.ENDED), ()
        case DeadlinePassed(phase, at) if phase == state.phase:
            return _late(state, at)
        case ConfigChanged() if state.phase in (Phase.PREPARING, Phase.READY, Phase.DOZING):
            return replace(state, phase=Phase.JOINING), (PrepareAgain(),)
        case PlanCannotGoOn(broken, lost_peer) if state.phase in TOGETHER and broken.epoch == state.epoch:
            return replace(state, broken=broken, lost_peer=lost_peer), ()
        case PlanArrived(plan) if plan.restore is not None and state.phase in TOGETHER and plan.epoch > state.epoch:
            return replace(state, plan=plan, broken=None, lost_peer=None), (SendTrain(plan, None),)
        case EpochSeen(epoch) if epoch != state.epoch and state.phase in FOLLOWING:
            # The run was resumed without us: what the engine computes now, nobody takes.
            return _without_engine(state)
        case Downloaded() | EngineListens() | PlanArrived() | SliceBuilt():
            return _forward(state, event)
    return state, ()


def _forward(state: State, event: Downloaded | EngineListens | PlanArrived | SliceBuilt) -> Next:
    match state.phase, event:
        case Phase.JOINING, Downloaded():
            return replace(state, phase=Phase.PREPARING), (StartEngine(), SetDeadline(Phase.PREPARING, PREPARE_S))
        case Phase.PREPARING, EngineListens(measures):
            return replace(state, phase=Phase.READY), () if measures else (SetDeadline(Phase.READY, DOZE_S),)
        case Phase.READY, PlanArrived(plan, kept):
            return _planned(_member(state, plan, kept=kept), plan)
        case Phase.DOZING, PlanArrived(plan, kept):
            waking = replace(_member(state, plan, kept=kept), phase=Phase.WAKING)
            return waking, (StartEngine(), SetDeadline(Phase.WAKING, WAKE_S))
        case Phase.WAKING, EngineListens() if state.plan is not None:
            return _planned(state, state.plan)
        case Phase.LOADING, SliceBuilt(path, back) if state.plan is not None:
            return replace(state, phase=Phase.TRAINING), (SendTrain(state.plan, path, back),)
    return state, ()


def _member(state: State, plan: Plan, *, kept: bool) -> State:
    """Whom an engine before had lost may be here again: to report that of this plan would end it."""
    return replace(state, plan=plan, kept=kept, lost_peer=None, broken=None)


def _planned(state: State, plan: Plan) -> Next:
    if plan.restore is not None:  # the other members have what we need
        return replace(state, phase=Phase.TRAINING, kept=False), (SendTrain(plan, None),)
    if plan.first_step > 0 or state.kept:
        return replace(state, phase=Phase.LOADING), (FetchSlice(plan),)
    return replace(state, phase=Phase.TRAINING), (SendTrain(plan, None),)


# Resting, and going on.


def _rest_or_go_on(state: State, event: PauseAsked | FinishAsked | ResumeAsked | EngineHeld) -> Next:
    match event:
        case PauseAsked(wish):
            return _pause(state, wish)
        case FinishAsked() if state.phase is Phase.TRAINING:
            return replace(state, finishing=True), (SendPause(FINISHED.reason, after_contribution=True),)
        case EngineHeld() if state.finishing:
            return _pause(state, FINISHED)
        case EngineHeld() if state.phase is Phase.SERVING:
            return replace(state, computes_nothing=True), (SetDeadline(Phase.SERVING, HOLD_S),)
        case ResumeAsked(in_person):
            return _resume(state, in_person=in_person)
    return state, ()


def _pause(state: State, wish: Wish) -> Next:
    before, state = state.wish, replace(state, wish=wish, finishing=False)
    if state.departing:
        return state, ()
    if state.phase is Phase.HOLDING and before is None:  # as the whole run does: this goes further
        state = replace(state, phase=Phase.TRAINING)
    match state.phase:
        case phase if phase in (*UNPLANNED, Phase.WAKING, Phase.LOADING):
            # No member has heard of this engine yet, and starting it again takes seconds.
            return _without_engine(state)
        case Phase.TRAINING if wish.serves and not state.alone and _others_go_on(state):
            serving = replace(state, phase=Phase.SERVING, computes_nothing=False)
            after_s = YIELD_S if wish.frees_memory else STOP_S
            return serving, (SendPause(wish.reason, serves=True), SetDeadline(Phase.SERVING, after_s))
        case Phase.SERVING if wish.serves and wish.frees_memory and not state.computes_nothing:
            return state, (SetDeadline(Phase.SERVING, YIELD_S),)
        case Phase.SERVING if wish.serves:
            return state, ()
        case Phase.TRAINING | Phase.SERVING | Phase.HOLDING if wish.frees_memory:
            return _end_to_rest(state, wish.reason, 0.0, FREE_S)
        case Phase.TRAINING | Phase.SERVING if not state.alone and _others_go_on(state):
            return _end_to_rest(state, wish.reason, STEP_S / 2, STOP_S)
        case Phase.TRAINING:
            return replace(state, phase=Phase.HOLDING), (SendPause(wish.reason), SetDeadline(Phase.HOLDING, HOLD_S))
        case Phase.PAUSING if wish.frees_memory and not (before and before.frees_memory):
            return _end_to_rest(state, wish.reason, 0.0, FREE_S)
    return state, ()


def _end_to_rest(state: State, reason: str, step_s: float, after_s: float) -> Next:
    return replace(state, phase=Phase.PAUSING), (
        SendStop(reason, step_s, rests=True),
        SetDeadline(Phase.PAUSING, after_s),
    )


def _others_go_on(state: State) -> bool:
    """In rounds, other clusters do whatever becomes of ours. Without, our cluster is the run, and waits for us."""
    return state.plan is not None and bool(state.plan.cluster)


def _resume(state: State, *, in_person: bool) -> Next:
    cured = replace(state, trouble=None, death=None, crashes=()) if in_person else state
    if cured.wish is None and not cured.finishing and cured.phase is not Phase.PAUSED:
        return cured, ()
    state = replace(cured, wish=None, finishing=False)
    if state.departing:
        return state, ()
    match state.phase:
        case Phase.TRAINING:
            return state, (SendResume(),)
        case Phase.SERVING | Phase.HOLDING:
            return replace(state, phase=Phase.TRAINING), (SendResume(),)
        case Phase.PAUSED if state.trouble is None:
            return replace(state, phase=Phase.JOINING), (PrepareAgain(),)
    return state, ()


def _without_engine(state: State) -> Next:
    """What there is of an engine ends. Whoever is to rest does, everybody else begins anew."""
    state = replace(state, plan=None, kept=False, finishing=False, departing=False, broken=None)
    if state.wish is not None or state.trouble is not None:
        return replace(state, phase=Phase.PAUSED), (EndEngine(),)
    return replace(state, phase=Phase.JOINING), (PrepareAgain(),)


# Ways out.


def _stop(state: State, reason: str) -> Next:
    if state.departing:
        return _leave(replace(state, departing=False))
    if state.phase in (Phase.PREPARING, Phase.READY, Phase.WAKING):
        # No member has heard of this engine yet: nobody needs its goodbye.
        left, actions = _leave(state)
        return left, (KillEngine(), *actions)
    if state.phase in BUSY or state.phase is Phase.PAUSING:
        return replace(state, phase=Phase.STOPPING), (SendStop(reason, STEP_S), SetDeadline(Phase.STOPPING, STOP_S))
    if state.phase in (Phase.JOINING, Phase.DOZING, Phase.PAUSED, Phase.FINISHING, Phase.WAITING):
        return _leave(state)
    return state, ()


def _leave(state: State) -> Next:
    return replace(state, phase=Phase.LEAVING), (Drain(), SetDeadline(Phase.LEAVING, LEAVE_S))


def _run_phase(state: State, run_phase: RunPhase) -> Next:
    if run_phase == "failed" and state.phase in (*BUSY, Phase.DOZING):
        return _stop(_blame(state, RunError("the server says that the run failed")), "the run failed")
    # Members learn the end from their engine; a worker that was never planned in learns it here.
    ended = (*UNPLANNED, Phase.PAUSED, *((*BUSY, Phase.PAUSING) if run_phase == "stopped" else ()))
    if run_phase in OVER and state.phase in ended:
        return _await_next(state) if state.waits else _stop(state, f"the run is {run_phase}")
    if run_phase == "paused" and state.phase is Phase.TRAINING:
        return _halt(state)
    if run_phase == "training" and state.phase is Phase.HOLDING and state.wish is None:
        return replace(state, phase=Phase.TRAINING), (SendResume(),)
    if run_phase == "waiting" and state.phase is Phase.WAITING:  # it was resumed, after all
        return _without_engine(state)
    return state, ()


def _halt(state: State) -> Next:
    """Until the run goes on. In rounds an engine finishes its round, and finds no other to train for."""
    holding = replace(state, phase=Phase.HOLDING)
    deadline = SetDeadline(Phase.HOLDING, HOLD_S)
    return holding, (deadline,) if _others_go_on(state) else (SendPause(HALTED), deadline)


def _await_next(state: State) -> Next:
    over = replace(state, phase=Phase.WAITING, plan=None, kept=False, finishing=False, departing=False, broken=None)
    return over, (EndEngine(),)


def _run(state: State, run: RunId) -> Next:
    """Of another run, nothing that there is of the one before is of use."""
    before, state = state.run, replace(state, run=run)
    if before in (None, run) or state.phase in (Phase.STOPPING, Phase.LEAVING):
        return state, ()
    return _without_engine(replace(state, lost_peer=None, crashes=(), death=None, trouble=None))


def _engine_ended(state: State, event: EngineFinished | EngineLeft | EngineFailed | EngineGone) -> Next:
    if state.phase not in (*BUSY, Phase.PAUSING, Phase.STOPPING) or state.departing:
        return state, ()
    match event:
        case EngineFinished() if state.phase is Phase.STOPPING:
            return _leave(state)
        case EngineFinished():
            return replace(state, phase=Phase.FINISHING), (Drain(),)
        case EngineLeft() if state.phase in (Phase.TRAINING, Phase.SERVING, Phase.PAUSING):
            return _depart(state)
        case EngineLeft():
            return _leave(state)
        case EngineFailed(PeerPaused()) if not _others_go_on(state) and state.phase is not Phase.STOPPING:
            return _depart(state)
        case EngineFailed(PeerLost() | StepAborted()) | EngineGone() if state.phase is Phase.PAUSING:
            return _without_engine(state)
        case EngineFailed(StepAborted()) if state.phase is Phase.SERVING:
            return _without_engine(state)
        case EngineFailed(PeerLost() | StepAborted(), lost_peer) if state.phase in BUSY and _others_go_on(state):
            # The other clusters train on: back, to be planned in again.
            return _without_engine(replace(state, lost_peer=lost_peer))
        case EngineFailed(EngineDied() as error, at=at) | EngineGone(error, at) if _curable(state):
            return _crashed(state, error, at)
        case EngineFailed(error, at=at) if state.phase is Phase.WAKING and _curable(state):
            return _crashed(state, error, at)  # where it listened before, another program may listen now
        case EngineFailed(error, lost_peer):
            # Its own words say more than "the run failed" heard from the server.
            blamed = replace(state, error=error) if type(state.error) in (type(None), RunError) else state
            return _leave(replace(blamed, lost_peer=lost_peer))
        case EngineGone(death):
            return _leave(state if state.phase is Phase.STOPPING else _blame(state, death))


def _depart(state: State) -> Next:
    """The run goes on from what members' engines kept: the server must have it before it hears that we left."""
    if state.plan is None or _others_go_on(state):
        return _without_engine(state)
    return replace(state, departing=True), (Drain(), SetDeadline(state.phase, DEPART_S))


def _curable(state: State) -> bool:
    """Starting the engine again may help: the run goes on without us, or has not begun with us."""
    begins = state.plan is None or bool(state.plan.cluster) or state.phase is Phase.WAKING
    return state.phase in (*BUSY, Phase.PAUSING) and begins


def _crashed(state: State, death: LegionError, at: float) -> Next:
    state = replace(state, crashes=restarts.counted(state.crashes, at), death=death)
    if not restarts.hopeless(state.crashes):
        return _without_engine(state)
    if state.unattended:
        return _leave(_blame(state, death))
    return _without_engine(replace(state, trouble=death))


def _late(state: State, at: float) -> Next:
    if state.departing:
        return _without_engine(state)
    if state.phase is Phase.READY:
        return replace(state, phase=Phase.DOZING), (Doze(),)
    if state.phase in (Phase.PREPARING, Phase.WAKING):
        within_s = PREPARE_S if state.phase is Phase.PREPARING else WAKE_S
        rested, actions = _crashed(state, EngineDied(f"the engine was not ready within {within_s / 60:.3g} min"), at)
        return rested, (KillEngine(), *actions)
    if state.phase is Phase.HOLDING:
        return _end_to_rest(state, state.wish.reason if state.wish else HALTED, 0.0, STOP_S)
    if state.phase is Phase.SERVING and state.wish is not None:
        in_time = state.computes_nothing or not state.wish.frees_memory
        return _end_to_rest(state, state.wish.reason, 0.0, STOP_S if in_time else FREE_S - YIELD_S)
    if state.phase is Phase.PAUSING:
        rested, actions = _without_engine(state)
        return rested, (KillEngine(), *actions)
    if state.phase is Phase.STOPPING:
        left, actions = _leave(state)
        return left, (KillEngine(), *actions)
    if state.phase is Phase.LEAVING:
        return replace(state, phase=Phase.ENDED), ()
    return state, ()


def _blame(state: State, error: LegionError) -> State:
    return replace(state, error=state.error or error)
