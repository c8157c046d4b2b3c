"""The agent at work: one task group owns every task, one loop decides, and everything else posts events to it."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from legion.config import config_digest
from legion.errors import ConfigInvalid, EngineDied, LegionError, by_slug
from legion.identity import load_key, signing_request
from legion.messages import PROTOCOL, Endpoint, Event, Heartbeat, HeartbeatReply, Plan
from legion_client.agent import allocator, events
from legion_client.agent import lifecycle as life
from legion_client.agent.backoff import persistently
from legion_client.agent.cache import Cache
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.enrolment import Enrolment, renewed
from legion_client.agent.outbox import Outbox
from legion_client.agent.preparation import (
    Prepared,
    check_plan,
    empty_folder,
    prepare,
    rank_in,
    resume_slice,
    tensors_in,
)
from legion_client.agent.rejoin import WayBack, way_back
from legion_client.agent.rounds import NUDGES as ROUND_NUDGES
from legion_client.agent.rounds import RoundRelay
from legion_client.agent.supervisor import COMMAND, Engine
from legion_client.engine.protocol import (
    AnchorReached,
    Command,
    Evaluated,
    Failed,
    Finished,
    HandedOver,
    Left,
    Listening,
    Prepare,
    Report,
    SliceWritten,
    SpanReduced,
    StateSaved,
    StepDone,
    Stop,
    Train,
    UpdateWanted,
)
from legion_client.paths import Home
from legion_client.settings import Settings

logger = logging.getLogger(__name__)

GOODBYE_S = 5.0
NUDGES = ("plan", "phase", "config", "gap")  # events after which a heartbeat is due at once
EVERYWHERE = ("0.0.0.0", "::")  # what a volunteer may have chosen to listen on
GIB = 2**30


class Agent:
    """One worker's membership in one server's run. `run` once."""

    def __init__(
        self,
        server: Coordinator,
        enrolment: Enrolment,
        home: Home,
        settings: Settings,
        engine_command: Sequence[str] = COMMAND,
    ) -> None:
        self._server = server
        self._enrolment = enrolment
        self._home = home
        self._settings = settings
        self._engine_command = engine_command
        self._outbox = Outbox(server)
        self._cache = Cache(home.cache)
        self._state = life.State()
        self._happened: asyncio.Queue[life.Event] = asyncio.Queue()
        self._beat_due = asyncio.Event()
        self._moved = asyncio.Event()  # replaced with every change of phase
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._engine: Engine | None = None
        self._engine_task: asyncio.Task[None] | None = None
        self._of_plan: list[asyncio.Task[None]] = []  # what is of no use once the plan is given up
        self._prepared: Prepared | None = None
        self._listening: Listening | None = None
        self._steps = 0  # committed, as far as our engine knows
        self._parts: list[asyncio.Task[None]] = []
        self._rounds = self._new_relay()

    def _new_relay(self) -> RoundRelay:
        return RoundRelay(self._server, self._home.work, lambda command: self._commands.put_nowait(command))

    @property
    def state(self) -> life.State:
        return self._state

    async def until(self, *phases: life.Phase) -> None:
        """Returns once the agent is in one of `phases`; for who watches it."""
        while self._state.phase not in phases:
            await self._moved.wait()

    def stop(self, reason: str) -> None:
        """Leave cleanly; `run` returns soon after. For the event loop's thread."""
        self._post(life.StopAsked(reason))

    async def run(self) -> None:
        """Until the run is over or `stop` was called. Raises the LegionError that ended it, if one did."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for part in (
                    self._heartbeats(),
                    self._follow_events(),
                    self._download(),
                ):
                    self._spawn(tasks, part)
                self._deliver(tasks)
                await self._decide(tasks)
                for task in self._parts:
                    task.cancel()
        finally:
            await self._goodbye()
        if self._state.error is not None:
            raise self._state.error

    async def _decide(self, tasks: asyncio.TaskGroup) -> None:
        while self._state.phase is not life.Phase.ENDED:
            event = await self._happened.get()
            before = self._state
            self._state, actions = life.transition(before, event)
            if self._state.phase is not before.phase:
                logger.info("agent phase=%s before=%s", self._state.phase, before.phase)
                self._moved.set()
                self._moved = asyncio.Event()
            if (self._state.said, self._state.error) != (before.said, before.error):
                self._beat_due.set()
            for action in actions:
                self._act(tasks, action)

    def _act(self, tasks: asyncio.TaskGroup, action: life.Action) -> None:
        match action:
            case life.StartEngine():
                self._commands.put_nowait(self._prepare_command())
                self._engine_task = self._spawn(tasks, self._run_engine())
            case life.PrepareAgain():
                self._spawn(tasks, self._prepare_again(tasks))
            case life.FetchSlice(plan):
                self._of_plan.append(self._spawn(tasks, self._fetch_slice(plan)))
            case life.SendTrain(plan, path, back):
                self._commands.put_nowait(_train(plan, path, back))
                self._take_part(tasks, plan, back)
            case life.SendStop(reason):
                self._commands.put_nowait(Stop(reason=reason))
            case life.KillEngine() if self._engine is not None:
                logger.warning("engine does not stop, killed pid=%d", self._engine.pid)
                self._engine.kill()
            case life.Drain():
                self._spawn(tasks, self._drain())
            case life.SetDeadline(phase, after_s):
                self._spawn(tasks, self._deadline(phase, after_s))

    def _deliver(self, tasks: asyncio.TaskGroup) -> None:
        self._of_plan += [
            self._spawn(tasks, part) for part in (self._outbox.send_records(), self._outbox.send_slices())
        ]

    def _take_part(self, tasks: asyncio.TaskGroup, plan: Plan, back: WayBack | None) -> None:
        config = self._prepared.config if self._prepared else None
        if config is not None and config.in_rounds:
            self._of_plan += [self._spawn(tasks, part) for part in self._rounds.parts()]
            self._rounds.begin(back.anchor if back else -(-plan.first_step // config.rounds.steps))

    def _spawn(self, tasks: asyncio.TaskGroup, part: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = tasks.create_task(self._reporting(part))
        self._parts.append(task)
        return task

    async def _reporting(self, part: Coroutine[Any, Any, None]) -> None:
        try:
            await part
        except LegionError as error:
            logger.error("agent cannot go on reason=%s", error)
            self._post(life.PartFailed(error))

    def _post(self, event: life.Event) -> None:
        self._happened.put_nowait(event)

    # What the parts do.

    async def _download(self) -> None:
        await asyncio.to_thread(empty_folder, self._home.work)
        self._prepared = await prepare(self._server, self._cache)
        self._post(life.Downloaded())

    async def _prepare_again(self, tasks: asyncio.TaskGroup) -> None:
        logger.info("configuration changed or plan given up, preparing again")
        self._listening, self._steps = None, 0
        await self._rounds.last_words()
        ending = [*self._of_plan, *([self._engine_task] if self._engine_task else [])]
        for task in ending:
            task.cancel()
        await asyncio.wait(ending)  # the engine may report until its end, and its files go with the folder
        self._of_plan, self._commands = [], asyncio.Queue()
        self._rounds = self._new_relay()
        await self._outbox.forget()
        self._deliver(tasks)
        await self._download()

    async def _heartbeats(self) -> None:
        while True:
            self._beat_due.clear()
            reply = await persistently("heartbeat", lambda: self._server.heartbeat(self._heartbeat()))
            await self._heed(reply)
            try:
                async with asyncio.timeout(reply.interval_s):
                    await self._beat_due.wait()
            except TimeoutError:
                continue

    async def _heed(self, reply: HeartbeatReply) -> None:
        self._post(life.RunPhaseSeen(reply.phase))
        self._post(life.EpochSeen(reply.epoch))
        self._rounds.seen(reply)
        if self._state.phase is life.Phase.READY and self._prepared is not None:
            await self._look_for_work(self._prepared, planned=reply.epoch != 0)
        if reply.certificate_renewal:
            await self._renew_certificate()

    async def _look_for_work(self, prepared: Prepared, *, planned: bool) -> None:
        if planned:
            plan = await persistently("plan", self._server.plan)
            if rank_in(plan, self._enrolment.worker_id) is not None:
                check_plan(plan, prepared)
                kept = prepared.config.in_rounds and self._home.local_state.exists()
                self._post(life.PlanArrived(plan, kept))
        elif config_digest(await persistently("configuration", self._server.config)) != prepared.digest:
            self._post(life.ConfigChanged())

    async def _renew_certificate(self) -> None:
        request = signing_request(load_key(self._enrolment.identity.key_pem))
        reply = await persistently("certificate", self._server.renew, request)
        self._enrolment = renewed(self._home.identity, self._enrolment, reply.certificate_pem)
        logger.info("certificate renewed worker=%s", self._enrolment.worker_id)

    async def _follow_events(self) -> None:
        enrolment = self._enrolment
        await events.follow(enrolment.base_url, enrolment.context, enrolment.token, self._on_event)

    def _on_event(self, event: Event) -> None:
        if event.type in NUDGES:
            self._beat_due.set()
        if event.type in ROUND_NUDGES:
            self._rounds.nudge()

    async def _run_engine(self) -> None:
        try:
            assert self._prepared is not None
            tuned = allocator.variables(self._prepared.config.model)
            async with Engine.running(self._engine_command, self._home.engine_log, tuned) as engine:
                self._engine = engine
                sender = asyncio.create_task(self._send_commands(engine), name="engine commands")
                try:
                    async for report in engine.reports():
                        self._hear(report)
                finally:
                    sender.cancel()
                death = await engine.death()
        except EngineDied as error:
            death = error
        self._post(life.EngineGone(death))

    async def _send_commands(self, engine: Engine) -> None:
        while True:
            await engine.send(await self._commands.get())

    def _hear(self, report: Report) -> None:
        match report:
            case Listening():
                self._listening = report
                self._post(life.EngineListens())
            case StepDone(record=record):
                self._steps = record.step
                self._outbox.add_record(self._state.epoch, record)
            case Evaluated(record=evaluation):
                self._outbox.add_record(self._state.epoch, evaluation)
            case SliceWritten():
                self._outbox.add_slice(self._state.epoch, report)
            case SpanReduced():
                self._rounds.reduced(report)
            case AnchorReached(report=root):
                self._rounds.reached(root)
            case HandedOver(handover=handover):
                self._rounds.handed_over(handover)
            case UpdateWanted():
                self._rounds.wanted(report)
            case StateSaved():
                logger.info("local state kept anchor=%d size_bytes=%d", report.anchor, report.size_bytes)
            case Finished(step=step):
                self._steps = step
                self._post(life.EngineFinished())
            case Left():
                self._post(life.EngineLeft())
            case Failed():
                error = by_slug(report.slug, report.message, hint=report.hint)
                self._post(life.EngineFailed(error, report.lost_peer))

    async def _fetch_slice(self, plan: Plan) -> None:
        rank = rank_in(plan, self._enrolment.worker_id)
        if rank is None:
            raise ConfigInvalid(f"this worker is no member of the plan of epoch {plan.epoch}")
        assert self._prepared is not None
        config, path = self._prepared.config, None
        back = await way_back(self._server, self._home.local_state, plan, rank, config) if config.in_rounds else None
        if plan.first_step > 0 and (back is None or back.by == "checkpoint"):
            path = await resume_slice(self._server, plan, rank, self._home.work, tensors=tensors_in(config))
        self._post(life.SliceBuilt(path, back))

    async def _drain(self) -> None:
        await self._outbox.drained()
        await self._rounds.drained()
        self._post(life.Drained())

    async def _deadline(self, phase: life.Phase, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._post(life.DeadlinePassed(phase))

    async def _goodbye(self) -> None:
        """The server hears why we go, then that we went. It finds out by silence if it cannot be told."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                if self._state.error is not None:
                    await self._server.heartbeat(self._heartbeat())
                await self._server.leave()
        except (LegionError, TimeoutError) as error:
            logger.warning("server could not be told that we leave reason=%s", error)

    # What is said.

    def _prepare_command(self) -> Prepare:
        assert self._prepared is not None
        return Prepare(
            config=self._prepared.config,
            manifest=self._prepared.manifest,
            identity_dir=self._home.identity,
            cache_dir=self._home.cache,
            work_dir=self._home.work,
            listen_host=self._settings.listen_host or self._local_host,
            listen_port=self._settings.listen_port,
            state_path=self._home.local_state,
        )

    @property
    def _local_host(self) -> str:
        """Our address on the way to the server; the members of a run are looked for the same way."""
        return self._server.local_host or "127.0.0.1"

    def _heartbeat(self) -> Heartbeat:
        listening, state = self._listening, self._state
        chosen = self._settings.listen_host
        host = self._local_host if chosen is None or chosen in EVERYWHERE else chosen
        return Heartbeat(
            protocol=PROTOCOL,
            state=state.said,
            epoch=state.epoch,
            step=self._steps,
            endpoint=Endpoint(host=host, port=listening.port) if listening else None,
            shape=listening.shape if listening else None,
            config_digest=self._prepared.digest if self._prepared and listening else None,
            share=max(1, listening.device.memory_bytes // GIB) if listening else 1,
            anchor=self._rounds.anchor,
            lost_peer=state.lost_peer,
            failure=state.error.slug if state.error else None,
            failure_message=str(state.error) if state.error else None,
        )


def _train(plan: Plan, resume_slice: Path | None, back: WayBack | None) -> Train:
    if back is None:
        return Train(plan=plan, resume_slice=resume_slice)
    return Train(plan=plan, resume_slice=resume_slice, local_state=back.local_state, missed=back.missed)
