"""The agent at work: one task group owns every task, one loop decides, and everything else posts events to it."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from legion.config import config_digest
from legion.errors import LegionError, WorkerDoubled
from legion.ids import Epoch
from legion.messages import PROTOCOL, Event, Heartbeat, HeartbeatReply, Plan
from legion_client.agent import events, life
from legion_client.agent.attempt import Attempt, Surroundings, keeps_state, local_host
from legion_client.agent.backoff import persistently
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.enrolment import Enrolment
from legion_client.agent.lifecycle import TOGETHER, transition
from legion_client.agent.orders import Offer
from legion_client.agent.outbox import Outbox
from legion_client.agent.preparation import Prepared, check_plan, rank_in
from legion_client.agent.reach import EVERYWHERE, Reach
from legion_client.agent.rejoin import WayBack
from legion_client.agent.room import Room
from legion_client.agent.rounds import NUDGES as ROUND_NUDGES
from legion_client.agent.supervisor import COMMAND
from legion_client.agent.traffic import Traffic
from legion_client.agent.unsent import unsent_at
from legion_client.engine.protocol import Pause, Rates, Regroup, Resume, Stop, Throttle, Train
from legion_client.paths import Home
from legion_client.settings import Settings

logger = logging.getLogger(__name__)

GOODBYE_S = 5.0
LOOK_S = 1.0  # between two questions where a member of our plan is by now
NUDGES = ("plan", "phase", "config", "gap")  # events after which a heartbeat is due at once


class Agent:
    """One worker's membership in one server's run. `run` once; everything else is for the event loop's thread."""

    def __init__(
        self,
        server: Coordinator,
        enrolment: Enrolment,
        home: Home,
        settings: Settings,
        engine_command: Sequence[str] = COMMAND,
        *,
        unattended: bool = False,
        waits: bool = False,
        polite: bool = False,
        traffic: Traffic | None = None,
        room: Room | None = None,
    ) -> None:
        """`polite`: somebody shares this computer with the engine. `unattended`: nobody would look why it rests.
        `waits`: for the server's next run, once this one is over.

        `traffic`: the server's, whose limits agent and engine keep together. `room`: for the run's data.
        """
        self._server = server
        self._enrolment = enrolment
        self._home = home
        self._settings = settings
        self._outbox = Outbox(server, unsent_at(home.state, enrolment.run_id))
        self._state = life.State(unattended=unattended, waits=waits)
        self._happened: asyncio.Queue[tuple[Attempt | None, life.Event]] = asyncio.Queue()
        self._beat_due = asyncio.Event()
        self._moved = asyncio.Event()  # replaced with every change of phase
        self._parts: list[asyncio.Task[None]] = []
        self._tasks: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._limits: Throttle | None = None
        self._regrouping = life.NO_EPOCH  # the plan that we broke off, or are about to, for another member
        self._left = life.NO_EPOCH  # the plan that we followed last, and no longer do
        self.offer = Offer()
        self.cards: str | None = None  # that the next engine may see; see Attempt.start_engine
        self._traffic = traffic if traffic is not None else Traffic()
        self._traffic.on_rates = self._limit_line
        self.away: LegionError | None = None  # why the server was not heard the last time
        self._around = Surroundings(
            server,
            enrolment.worker_id,
            home,
            settings,
            engine_command,
            polite,
            self._outbox,
            self._spawn_of,
            self._post_of,
            self._traffic,
            lambda: self.on_change(self._state, self._state),
            room if room is not None else Room(),
            self._find,
            self._beat_due.set,
        )
        self.reach = Reach(server, home.identity, home.reachability, settings.network, self._beat_due.set)
        self._ending: set[asyncio.Task[None]] = set()  # attempts before
        self._attempt = Attempt(self._around)
        # After what a volunteer may want to see: the state before, and now.
        self.on_change: Callable[[life.State, life.State], None] = lambda _before, _now: None

    @property
    def state(self) -> life.State:
        return self._state

    @property
    def attempt(self) -> Attempt:
        """The one under way; to be looked at."""
        return self._attempt

    @property
    def tokens_per_s(self) -> float:
        """Of the newest step; none while nothing is computed."""
        return self._attempt.tokens_per_s if self._state.phase is life.Phase.TRAINING else 0.0

    async def until(self, *phases: life.Phase) -> None:
        """Returns once the agent is in one of `phases`; for who watches it."""
        while self._state.phase not in phases:
            await self._moved.wait()

    # What is asked of it.

    def stop(self, reason: str) -> None:
        """Leave cleanly; `run` returns soon after."""
        self._post(life.StopAsked(reason))

    def pause(self, wish: life.Wish) -> None:
        """Compute nothing until `resume`."""
        self._post(life.PauseAsked(wish))

    def finish(self) -> None:
        """Pause once this round's contribution is made."""
        self._post(life.FinishAsked())

    def resume(self, *, in_person: bool = False) -> None:
        """`in_person`: the volunteer asks, who knows of the crashes that led to the pause."""
        self._post(life.ResumeAsked(in_person))

    def limit(self, limits: Throttle) -> None:
        """For the engine, and those that follow it."""
        if limits != self._limits:
            self._limits = limits
            if self._attempt.takes_commands:
                self._attempt.say(limits)

    def _limit_line(self, rates: Rates) -> None:
        if self._attempt.takes_commands:
            self._attempt.say(rates)

    async def run(self) -> None:
        """Until the run is over or `stop` was called. Raises the LegionError that ended it, if one did."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._spawn(self._heartbeats())
                self._spawn(self._follow_events())
                self._spawn(self.reach.serve())
                self._attempt.begin()
                await self._decide()
                if self._timer is not None:
                    self._timer.cancel()
                for task in self._parts:
                    task.cancel()
        finally:
            await self._goodbye()
        if self._state.error is not None:
            raise self._state.error

    async def _decide(self) -> None:
        while self._state.phase is not life.Phase.ENDED:
            attempt, event = await self._happened.get()
            if attempt is not None and attempt is not self._attempt:
                continue  # late news of what is over
            before = self._state
            self._state, actions = transition(before, event)
            if self._state.phase is not before.phase:
                logger.info("agent phase=%s before=%s", self._state.phase, before.phase)
                self._moved.set()
                self._moved = asyncio.Event()
            if self._state.plan is None and before.plan is not None:
                self._left = before.epoch
            if _told(self._state) != _told(before):
                self._beat_due.set()
            for action in actions:
                self._act(action)
            if self._state != before:
                self.on_change(before, self._state)

    def _act(self, action: life.Action) -> None:
        match action:
            case life.StartEngine():
                self._attempt.start_engine(self._limits, self.cards)
            case life.PrepareAgain():
                logger.info("preparing again")
                self._end_attempt()
                self._attempt.begin(after=self._ending)
            case life.EndEngine():
                self._end_attempt(at_once=True)
            case life.FetchSlice(plan):
                self._attempt.fetch_slice(plan)
            case life.SendTrain(plan, path, back):
                self._attempt.say(_train(plan, path, back))
                self._attempt.take_part(plan, back)
            case life.SendStop(reason, within_s, rests):
                self._attempt.say(Stop(reason=reason, within_s=within_s, rests=rests))
            case life.SendPause(reason, after_contribution, serves):
                self._attempt.say(Pause(reason=reason, after_contribution=after_contribution, serves=serves))
            case life.SendResume():
                self._attempt.say(Resume())
            case life.KillEngine():
                self._attempt.kill_engine()
            case life.Doze():
                self._attempt.doze()
            case life.Drain():
                self._spawn(self._drain())
            case life.SetDeadline(phase, after_s):
                if self._timer is not None:
                    self._timer.cancel()
                passed = life.DeadlinePassed(phase, time.monotonic() + after_s)
                self._timer = asyncio.get_running_loop().call_later(after_s, self._post, passed)

    def _end_attempt(self, *, at_once: bool = False) -> None:
        ended, self._attempt = self._attempt, Attempt(self._around)
        ending = self._spawn(ended.end(at_once=at_once))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _spawn(self, part: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._spawn_of(None, part)

    def _spawn_of(self, attempt: Attempt | None, part: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None
        task = self._tasks.create_task(self._reporting(attempt, part))
        self._parts.append(task)
        task.add_done_callback(self._parts.remove)
        task.add_done_callback(lambda _: part.close())  # of a task cancelled before it began
        return task

    async def _reporting(self, attempt: Attempt | None, part: Coroutine[Any, Any, None]) -> None:
        try:
            await part
        except LegionError as error:
            logger.error("agent cannot go on reason=%s", error)
            self._happened.put_nowait((attempt, life.PartFailed(error)))

    def _post(self, event: life.Event) -> None:
        self._happened.put_nowait((None, event))

    def _post_of(self, attempt: Attempt, event: life.Event) -> None:
        self._happened.put_nowait((attempt, event))

    # What the parts do.

    async def _find(self, port: int) -> None:
        """How others reach the engine that listens now."""
        await self.reach.find(self._announced_host, port)

    @property
    def _announced_host(self) -> str:
        chosen = self._settings.listen_host
        return local_host(self._server) if chosen is None or chosen in EVERYWHERE else chosen

    async def _heartbeats(self) -> None:
        while True:
            self._beat_due.clear()
            reply = await persistently("heartbeat", self._beat)
            await self._heed(reply)
            try:
                async with asyncio.timeout(LOOK_S if self._attempt.links.away else reply.interval_s):
                    await self._beat_due.wait()
            except TimeoutError:
                continue

    async def _beat(self) -> HeartbeatReply:
        before = self.away
        try:
            reply = await self._server.heartbeat(self._heartbeat())
        except LegionError as error:
            self.away = error
            raise
        else:
            self.away = None
            return reply
        finally:
            if (before is None) is not (self.away is None):
                self.on_change(self._state, self._state)

    async def _heed(self, reply: HeartbeatReply) -> None:
        attempt = self._attempt
        self.reach.tell_of_another(reply.doubled)
        if reply.run_id is not None and reply.run_id != self._state.run:
            self._post(life.RunSeen(reply.run_id))
            if self._state.run is not None:  # the rest of the answer is about what we have nothing of yet
                self._beat_due.set()
                return
        self._post(life.RunPhaseSeen(reply.phase))
        if not await self._has_another_plan(attempt, reply.epoch):
            self._post_of(attempt, life.EpochSeen(reply.epoch))
        attempt.rounds.seen(reply)
        if reply.regroup and self._state.phase in TOGETHER and reply.epoch == self._state.epoch != self._regrouping:
            self._regrouping = reply.epoch
            attempt.say(Regroup())
        attempt.links.heed(reply, engine_hears=attempt.listening is not None and attempt.takes_commands)
        if self._state.phase in (life.Phase.READY, life.Phase.DOZING) and attempt.prepared is not None:
            # Until it has heard that we left, the server may still count us a member of the plan before.
            planned = reply.epoch not in (life.NO_EPOCH, self._left)
            await self._look_for_work(attempt, attempt.prepared, planned=planned)
        if reply.certificate_renewal:
            await self._renew_certificate()

    async def _has_another_plan(self, attempt: Attempt, epoch: Epoch) -> bool:
        """Our cluster goes on by another plan than the one that we follow."""
        state = self._state
        if state.phase not in TOGETHER or epoch <= state.epoch or attempt.prepared is None:
            return False
        plan = await persistently("plan", self._server.plan)
        if plan.restore is None or rank_in(plan, self._enrolment.worker_id) is None:
            return False
        check_plan(plan, attempt.prepared)
        self._post_of(attempt, life.PlanArrived(plan))
        return True

    async def _look_for_work(self, attempt: Attempt, prepared: Prepared, *, planned: bool) -> None:
        if planned:
            plan = await persistently("plan", self._server.plan)
            if rank_in(plan, self._enrolment.worker_id) is not None:
                check_plan(plan, prepared)
                self._post_of(attempt, life.PlanArrived(plan, keeps_state(prepared, self._home.local_state)))
        elif config_digest(await persistently("configuration", self._server.config)) != prepared.digest:
            self._post_of(attempt, life.ConfigChanged())

    async def _renew_certificate(self) -> None:
        from legion_client.agent.enrolling import renew  # noqa: PLC0415  cryptography: 10 MB, once a month

        self._enrolment = await renew(self._home.identity, self._enrolment, self._server)
        logger.info("certificate renewed worker=%s", self._enrolment.worker_id)

    async def _follow_events(self) -> None:
        enrolment = self._enrolment
        counted = self._traffic.download.valve.count
        await events.follow(enrolment.base_url, enrolment.context, enrolment.token, self._on_event, counted)

    def _on_event(self, event: Event) -> None:
        if event.type in NUDGES:
            self._beat_due.set()
        if event.type in ROUND_NUDGES:
            self._attempt.rounds.nudge()

    async def _drain(self) -> None:
        await self._attempt.drained()
        self._post(life.Drained())

    async def _goodbye(self) -> None:
        """The server hears why we go, then that we went. It finds out by silence if it cannot be told."""
        if isinstance(self._state.error, WorkerDoubled):
            return  # the other one stays
        try:
            async with asyncio.timeout(GOODBYE_S):
                if self._state.error is not None:
                    await self._server.heartbeat(self._heartbeat())
                await self._server.leave()
        except (LegionError, TimeoutError) as error:
            logger.warning("server could not be told that we leave reason=%s", error)

    def _heartbeat(self) -> Heartbeat:
        attempt, state = self._attempt, self._state
        listening = attempt.listening
        return Heartbeat(
            protocol=PROTOCOL,
            state=state.said,
            run_id=state.run,
            epoch=state.epoch,
            left=self._left if self._left != state.epoch else life.NO_EPOCH,
            step=attempt.steps,
            endpoint=self.reach.endpoint if listening else None,
            shape=listening.shape if listening else None,
            config_digest=attempt.prepared.digest if attempt.prepared and listening else None,
            share=self.offer.share(listening.device, attempt.cards) if listening else 1,
            anchor=attempt.rounds.anchor,
            lost_peer=state.lost_peer,
            broken=state.broken,
            away=attempt.links.away,
            failure=state.error.slug if state.error else None,
            failure_message=str(state.error) if state.error else None,
            instance=self.reach.instance,
        )


def _told(state: life.State) -> tuple[object, ...]:
    """What the server is to hear of at once."""
    return state.said, state.epoch, state.error, state.broken


def _train(plan: Plan, resume_slice: Path | None, back: WayBack | None) -> Train:
    if back is None:
        return Train(plan=plan, resume_slice=resume_slice)
    return Train(plan=plan, resume_slice=resume_slice, local_state=back.local_state, missed=back.missed)
