"""One attempt to take part in the run: what was downloaded, the engine, and all that is of no use without them.

Invariant: what an attempt has to tell reaches the agent with the attempt's own name, so that late news of one that is
over is told from news of the next.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from legion.errors import ConfigInvalid, EngineDied, by_slug
from legion.ids import WorkerId
from legion.messages import Plan
from legion.reports import StepRecord
from legion_client.agent import allocator, life
from legion_client.agent.cache import Cache
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.links import LinkRelay
from legion_client.agent.orders import device_kinds, seen
from legion_client.agent.outbox import Outbox
from legion_client.agent.preparation import Prepared, empty_folder, files_of, prepare, rank_in, resume_slice, tensors_in
from legion_client.agent.progress import Going, Progress, progress
from legion_client.agent.rejoin import WayBack, way_back
from legion_client.agent.room import Room
from legion_client.agent.rounds import RoundRelay
from legion_client.agent.supervisor import Engine
from legion_client.agent.traffic import Traffic
from legion_client.engine.protocol import (
    AnchorReached,
    Command,
    Evaluated,
    Failed,
    Finished,
    HandedOver,
    Held,
    Left,
    LinksMeasured,
    Listening,
    Moved,
    PeersAway,
    PlanBroken,
    Prepare,
    Pulse,
    Report,
    SliceWritten,
    SpanReduced,
    StateSaved,
    StepDone,
    Throttle,
    UpdateWanted,
    Wrote,
)
from legion_client.machine.probe import nvidia_devices
from legion_client.paths import Home
from legion_client.settings import Settings

logger = logging.getLogger(__name__)

LAST_RECORDS_S = 2.0  # for what the engine said of its steps to reach the server

Post = Callable[["Attempt", life.Event], None]
Spawn = Callable[["Attempt", Coroutine[Any, Any, None]], asyncio.Task[None]]  # a task of the agent's group


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all attempts of an agent have in common."""

    server: Coordinator
    worker_id: WorkerId
    home: Home
    settings: Settings
    engine_command: Sequence[str]
    polite: bool  # the engine runs with the lowest priority
    outbox: Outbox
    spawn: Spawn
    post: Post
    traffic: Traffic
    on_progress: Callable[[], None]
    room: Room
    find: Callable[[int], Awaitable[None]]  # how others reach an engine that listens at this port
    beat: Callable[[], None]  # the server is to hear of us at once


class Attempt:
    """From the download to the engine's end."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._engine: Engine | None = None
        self._running: asyncio.Task[None] | None = None  # the engine, from its start to its end
        self._takes_commands = False
        self._finding: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.rounds = RoundRelay(around.server, around.home.work, self.say)
        self.links = LinkRelay(around.server, self.say, around.traffic, on_away=around.beat)
        self.plan: Plan | None = None
        self.prepared: Prepared | None = None
        self.listening: Listening | None = None
        self._transfer: Progress | None = None
        self.cards: str | None = None
        self.card_problem: str | None = None  # why the engine computes without the card that is there
        self.steps = 0  # committed, as far as our engine knows
        self.record: StepRecord | None = None  # of the newest step
        self.recorded_at = 0.0  # s of the monotonic clock

    # What is done for it.

    def begin(self, after: Iterable[asyncio.Task[None]] = ()) -> None:
        """Downloads, once these tasks, which end the attempts before, are done."""
        self._spawn(self._download(list(after)))

    def start_engine(self, limits: Throttle | None, cards: str | None) -> None:
        """`cards`: that it may see, as `Orders` has them; None: all."""
        self.cards = cards
        self._takes_commands = True
        self.say(self._prepare_command())  # first of all: what an engine is told before, it would not understand
        if limits is not None:
            self.say(limits)
        self._running = self._spawn(self._run_engine(self._running))

    def doze(self) -> None:
        """The engine ends; where it listened is kept for the next one. What it was to be told, nobody hears."""
        self._takes_commands = False
        self._commands = asyncio.Queue()
        if self._running is not None:
            self._running.cancel()

    def fetch_slice(self, plan: Plan) -> None:
        self.plan = plan
        self._moved_on(Progress("compares what is here with the run's log"))
        self._spawn(self._fetch_slice(plan))

    def take_part(self, plan: Plan, back: WayBack | None) -> None:
        goes_on, self.plan = self.plan is not None and plan.restore is not None, plan
        config = self.prepared.config if self.prepared else None
        if config is not None and config.in_rounds and not goes_on:
            for part in self.rounds.parts():
                self._spawn(part)
            first = plan.restore.anchor if plan.restore else -(-plan.first_step // config.rounds.steps)
            self.rounds.begin(back.anchor if back else first)

    def say(self, command: Command) -> None:
        """To the engine, when it lives."""
        self._commands.put_nowait(command)

    @property
    def takes_commands(self) -> bool:
        """Its engine lives, or is about to."""
        return self._takes_commands

    @property
    def engine_pid(self) -> int | None:
        return self._engine.pid if self._engine is not None else None

    @property
    def tokens_per_s(self) -> float:
        """Of the newest step; less while the next takes longer."""
        if self.record is None:
            return 0.0
        return self.record.tokens / max(self.record.step_s, time.monotonic() - self.recorded_at, 1e-6)

    def kill_engine(self) -> None:
        if self._engine is not None:
            self._engine.kill()

    async def end(self, *, at_once: bool = False) -> None:
        """Ends the engine and all that is done for it. What it has said is delivered, if that takes seconds.

        `at_once`: its process is gone before anything is delivered.
        """
        if at_once:
            self.kill_engine()
        await self.rounds.last_words()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_RECORDS_S):
                await self._around.outbox.drained()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)  # the engine may report until its end, and its files go with the folder
        in_rounds = self.prepared is not None and self.prepared.config.in_rounds
        await self._around.outbox.forget(records=not in_rounds)
        if self.prepared is not None:  # it may be for lack of room that it ends
            cache, wanted = Cache(self._around.home.cache), files_of(self.prepared.manifest)
            await asyncio.to_thread(cache.make_room, wanted, self._around.room.most_bytes, None)

    async def drained(self) -> None:
        """Every record, slice and report is with the server."""
        await self._around.outbox.drained()
        await self.rounds.drained()

    # Tasks.

    def _spawn(self, part: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._tasks.append(self._around.spawn(self, part))
        return self._tasks[-1]

    def _post(self, event: life.Event) -> None:
        self._around.post(self, event)

    async def _download(self, after: list[asyncio.Task[None]]) -> None:
        if after:
            await asyncio.wait(after)
        self._spawn(self._around.outbox.send_records())
        self._spawn(self._around.outbox.send_slices())
        self._spawn(self.links.deliver())
        self._spawn(self.links.measure_server())
        await asyncio.to_thread(empty_folder, self._around.home.work)
        around = self._around
        self.prepared = await prepare(around.server, Cache(around.home.cache), self._moved_on, around.room)
        self._post(life.Downloaded())

    async def _run_engine(self, after: asyncio.Task[None] | None) -> None:
        around = self._around
        if after is not None:
            await asyncio.wait([after])  # until then the line is the other engine's
        around.traffic.with_engine(True)
        self.say(around.traffic.rates)
        try:
            assert self.prepared is not None
            tuned = dict(allocator.variables(self.prepared.config.model))
            if self.cards is not None:
                tuned |= seen(self.cards)
            async with Engine.running(
                around.engine_command, around.home.engine_log, tuned, lowest_priority=around.polite
            ) as engine:
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
        finally:
            self._engine = None
            if self._finding is not None:
                self._finding.cancel()
            around.traffic.with_engine(False)
        self._post(life.EngineGone(death, time.monotonic()))

    async def _find(self, port: int) -> None:
        """The engine is of use once others know where it is."""
        await self._around.find(port)
        measures = self.prepared is not None and self.prepared.config.cluster.policy == "auto"
        self._post(life.EngineListens(measures))

    async def _send_commands(self, engine: Engine) -> None:
        while True:
            await engine.send(await self._commands.get())

    async def _fetch_slice(self, plan: Plan) -> None:
        around = self._around
        rank = rank_in(plan, around.worker_id)
        if rank is None:
            raise ConfigInvalid(f"this worker is no member of the plan of epoch {plan.epoch}")
        assert self.prepared is not None
        config, path = self.prepared.config, None
        back = await way_back(around.server, around.home.local_state, plan, rank, config) if config.in_rounds else None
        if plan.first_step > 0 and (back is None or back.by == "checkpoint"):
            tensors = tensors_in(config)
            path = await resume_slice(around.server, plan, rank, around.home.work, tensors=tensors, told=self._moved_on)
        self._post(life.SliceBuilt(path, back))

    def _moved_on(self, progress: Progress) -> None:
        self._transfer = progress
        self._around.on_progress()

    def progress(self, phase: life.Phase) -> Progress | None:
        """Of what takes long now."""
        return progress(
            Going(
                phase=phase,
                transfer=self._transfer,
                in_rounds=self.prepared is not None and self.prepared.config.in_rounds,
                members=len(self.plan.members) if self.plan else 1,
                caught_up=self.rounds.catching_up,
                step_s=self.record.step_s if self.record else None,
                quiet_s=time.monotonic() - self.recorded_at if self.record else 0.0,
            )
        )

    # What the engine says.

    def _hear(self, report: Report) -> None:
        outbox, epoch = self._around.outbox, self.plan.epoch if self.plan else life.NO_EPOCH
        match report:
            case Listening():
                self._listens(report)
                self._finding = self._spawn(self._find(report.port))
            case Held():
                logger.info("engine holds after_s=%.3f", report.after_s)
                self._post(life.EngineHeld())
            case StepDone(record=record):
                self.steps, self.record, self.recorded_at = record.step, record, time.monotonic()
                outbox.add_record(epoch, record)
            case Moved():
                self._around.traffic.moved(report)
            case Pulse():
                pass  # whoever reads the reports has noticed
            case LinksMeasured():
                self.links.measured(report)
            case PeersAway():
                self.links.miss(report)
            case Evaluated(record=told) | Wrote(sample=told):
                outbox.add_record(epoch, told)
            case SliceWritten():
                outbox.add_slice(epoch, report)
            case StateSaved():
                logger.info("local state kept anchor=%d size_bytes=%d", report.anchor, report.size_bytes)
            case Finished(step=step):
                self.steps = step
                self._post(life.EngineFinished())
            case Left():
                self._post(life.EngineLeft())
            case PlanBroken():
                logger.warning("plan broken reason=%s", report.message)
                self._post(life.PlanCannotGoOn(report.broken, report.lost_peer))
            case Failed():
                self._failed(report)
            case _:
                self._hear_of_rounds(report)

    def _listens(self, report: Listening) -> None:
        self.listening = report
        expects_card = bool(nvidia_devices()) if self.cards is None else bool(self.cards)
        if report.card_problem and expects_card:
            self.card_problem = report.card_problem
            logger.warning("graphics cards cannot be used reason=%s", report.card_problem)

    def _hear_of_rounds(self, report: Report) -> None:
        match report:
            case SpanReduced():
                self.rounds.reduced(report)
            case AnchorReached(report=root):
                self.rounds.reached(root)
                self._around.on_progress()
            case HandedOver(handover=handover):
                self.rounds.handed_over(handover)
            case UpdateWanted():
                self.rounds.wanted(report)

    def _failed(self, report: Failed) -> None:
        error = by_slug(report.slug, report.message, hint=report.hint)
        if self._engine is not None:
            error.details["log"] = self._engine.last_words
        self._post(life.EngineFailed(error, report.lost_peer, time.monotonic()))

    def _prepare_command(self) -> Prepare:
        assert self.prepared is not None
        home, settings = self._around.home, self._around.settings
        return Prepare(
            config=self.prepared.config,
            manifest=self.prepared.manifest,
            identity_dir=home.identity,
            cache_dir=home.cache,
            work_dir=home.work,
            listen_host=settings.listen_host or local_host(self._around.server),
            listen_port=self.listening.port if self.listening else settings.listen_port,
            state_path=home.local_state,
            device_kinds=device_kinds(self.cards),
            power_note=home.power_note,
        )


def local_host(server: Coordinator) -> str:
    """Our address on the way to the server; the members of a run are looked for the same way."""
    return server.local_host or "127.0.0.1"


def keeps_state(prepared: Prepared, path: Path) -> bool:
    """An engine of this worker left what the next one can take up."""
    return prepared.config.in_rounds and path.exists()
