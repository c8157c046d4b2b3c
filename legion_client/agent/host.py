"""One home's agent, for as long as its program runs: looks after the computer, takes part in a run while it has one.

Invariant: what the volunteer decided (`settings.toml`) is the only memory of a pause; sensors and the policy's state
begin anew with the program.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from legion.errors import LegionError, Refused
from legion.identity import Invite
from legion_client.agent import life
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.decided import Decided, by_hand
from legion_client.agent.enrolment import ENROLMENT_FILE, Enrolment, forget
from legion_client.agent.equipment import Equipment
from legion_client.agent.face import in_full
from legion_client.agent.guard import Guard, Watch, nobody_watches, nothing_comes, watching
from legion_client.agent.joining import join
from legion_client.agent.journal import Journal
from legion_client.agent.known import beside_sensors
from legion_client.agent.memberships import BROKE_OFF, FOR_GOOD, JOINED, LEFT, NO_LONGER, UNKEPT, Ends, ended
from legion_client.agent.naming import Naming
from legion_client.agent.orders import Offer, Orders, Unusable, offer, orders
from legion_client.agent.room import Room
from legion_client.agent.samples import Samples
from legion_client.agent.sampling import Now, sampling
from legion_client.agent.service import Agent
from legion_client.agent.sharing import kept
from legion_client.agent.standing import Standing
from legion_client.agent.supervisor import COMMAND
from legion_client.agent.telling import Teller
from legion_client.agent.traffic import Traffic
from legion_client.agent.uplink import Uplink
from legion_client.control.messages import Said
from legion_client.machine.notices import Coming
from legion_client.machine.policy import Decision, Pause, Run
from legion_client.machine.probe import hardware
from legion_client.machine.readings import Readings
from legion_client.machine.reasons import Active
from legion_client.machine.volume import MonthlyVolume
from legion_client.paths import Home
from legion_client.settings import Settings, SettingsFile

logger = logging.getLogger(__name__)


class Host:
    """`run` once; everything else is for the event loop's thread."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        *,
        polite: bool = True,
        unattended: bool = False,
        engine_command: Sequence[str] = COMMAND,
    ) -> None:
        """`settings`: name and addresses; the rules are read from the home, again after every change.

        Without `polite`, only what is asked for by hand pauses. `unattended`: see Agent.
        """
        self.home = home
        self.settings = settings
        self.polite = polite
        self._unattended, self._waits = unattended, False
        self._engine_command = engine_command
        self._volunteer = Decided(home.settings)
        self.journal = Journal(home.activity / "happenings.jsonl")
        self.samples = Samples(home.activity / "samples.sqlite")
        self.teller = Teller(self.journal)
        self.standing = Standing(home.activity / "standing.json", self.teller.changed, self.teller.credited)
        self.volume = MonthlyVolume(home.activity / "traffic.json")
        self.naming = Naming(home.activity / "name.json", self.journal, lambda: self.file.settings.account)
        self.uplink = Uplink(home.activity / "uplink.json")
        self.equipment = Equipment(self.teller.changed)
        self.agent: Agent | None = None
        self.enrolment: Enrolment | None = None
        self.decision: Decision | None = None
        self.readings = Readings()
        self.finishing = False  # this round, as the volunteer asked
        self.finished = False  # it is
        self.trouble: LegionError | None = None  # that ended the last membership
        self._ends = Ends()
        self._coming: Coming | None = None
        self._quitting = False
        self._asked = asyncio.Event()  # to join, to leave, to try again, or to quit
        self._has_decided = asyncio.Event()
        self._resting_since: float | None = None
        self.traffic = Traffic(self.volume)
        self._offer = Offer()
        self.room = Room(on_change=self.look_again)
        self._guard: Guard | None = None
        self._orders: Orders | None = None
        self._unusable = Unusable()

    # What is asked of it.

    def quit(self, reason: str) -> None:
        """`run` ends in good order."""
        logger.info("quitting reason=%s", reason)
        self._quitting = True
        self._asked.set()
        if self.agent is not None:
            self.agent.stop(reason)

    def look_again(self) -> None:
        """Settings, or what is known beside them, have changed."""
        self._volunteer.look_again()
        if self._guard is not None:
            self._guard.look_again()
        self.teller.changed()

    def steer(self, modes: Mapping[str, Any]) -> None:
        """What the volunteer does by hand: see `Decided.steer`."""
        unkept = self._volunteer.steer(modes)
        if unkept is not None:
            said = Said(text=UNKEPT, values={"problem": str(unkept)})
            self.journal.add("unkept", said, level="warning")
        self.look_again()

    def finish(self) -> None:
        """Pause once this round's contribution is made; at once where none is on its way."""
        if self.agent is None:
            raise Refused("there is no run to finish a round of", hint="'legion-client pause' pauses.")
        self.finishing = True
        self.agent.finish()  # which ends at its border; where there is none, the round is finished now
        self._have_finished(self.agent.state)

    def resume(self) -> None:
        """Whatever was done by hand is over, and what failed is tried again."""
        self.finishing = self.finished = False
        self._ends = Ends()
        self.steer({"modes.paused": None, "modes.paused_until": None})
        if self.agent is not None:
            self.agent.resume(in_person=True)
        self._asked.set()

    async def join(self, invite: Invite) -> None:
        """Raises what the server refuses with; nothing has changed then."""
        if self.enrolment is not None:
            raise Refused("this computer takes part in a run already", hint="Leave it first: legion-client leave.")
        self.enrolment = await join(self.home.identity, invite, self.settings.name, lambda: hardware(self.home.root))
        self.journal.add("joined", Said(text=JOINED, values={"server": self.enrolment.base_url}))
        self.trouble, self._ends, self.finishing, self.finished = None, Ends(), False, False
        self._asked.set()

    async def leave(self) -> None:
        """The server is told, and forgotten; the identity stays."""
        if self.enrolment is None and not (self.home.identity / ENROLMENT_FILE).exists():
            raise Refused("this computer takes part in no run", hint="Join one: legion-client join.")
        server = self.enrolment.base_url if self.enrolment else "its server"
        self.enrolment = self.trouble = None
        self._asked.set()
        if self.agent is not None:
            self.agent.stop("its volunteer leaves the run")
        await forget(self.home.identity)
        self.journal.add("left", Said(text=LEFT, values={"server": server}))

    async def enrol(self, invite: Invite | None) -> None:
        """The enrolment of this home, made with `invite` if there is none; before `run`. See `joining.join`."""
        self.enrolment = await join(self.home.identity, invite, self.settings.name, lambda: hardware(self.home.root))

    async def run(self, *, stays: bool = False, waits: bool = False) -> None:
        """Until `quit`, or the run's end; raises what ended it. `waits`: for the server's next, `stays`: for any."""
        self._waits = waits or stays
        if not self.polite:
            await self._run(Watch(nobody_watches, nothing_comes, lambda: None), stays=stays)
            return
        async with watching(self.home.root, self.volume, lambda: self.engine_pid, self._on_gpu) as watch:
            await self._run(watch, stays=stays)

    async def _run(self, watch: Watch, *, stays: bool) -> None:
        read = self.uplink.beside(watch.read, lambda: self.agent is None or self.agent.state.alone)
        self._guard = Guard(read, self._look_up, self._known, self._decided, at_rest=lambda: self.at_rest)
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [
                    tasks.create_task(part)
                    for part in (
                        self._guard.watch(),
                        sampling(self.samples, self.traffic, self._now),
                        self._heed_notices(watch),
                        self.equipment.look(cards=not self.polite),
                    )
                ]
                try:
                    await self._memberships(stays=stays)
                finally:
                    for task in beside:
                        task.cancel()
        except* LegionError as errors:
            raise errors.exceptions[0] from None
        finally:
            self.standing.save()
            self.samples.close()
            self.traffic.settle()
            await asyncio.to_thread(self.volume.save)

    async def _memberships(self, *, stays: bool) -> None:
        await self._has_decided.wait()  # which cards the first engine may see, and whether there is to be one
        while not self._quitting:
            if (enrolment := self.enrolment) is None:
                await self._until_asked()
                continue
            try:
                await self._take_part(enrolment)
            except LegionError as error:
                if not stays:
                    raise
                if self.enrolment is enrolment:
                    await self._try_again_after(error)
                continue
            if not stays:
                return
            if self.enrolment is enrolment:  # not one of another run, joined meanwhile
                self.enrolment = None
            self.teller.changed()

    async def _try_again_after(self, error: LegionError) -> None:
        self.trouble = error
        self._ends, pause_s = ended(self._ends, error, time.monotonic())
        kind, told = ("run-ended", NO_LONGER) if pause_s is None else ("run-broke-off", BROKE_OFF)
        self.journal.add(kind, *in_full(error, told), level="error")
        if isinstance(error, FOR_GOOD):
            self.enrolment = None
        self.look_again()
        if self.enrolment is not None:
            await self._until_asked(pause_s)

    async def _until_asked(self, within_s: float | None = None) -> None:
        self._asked.clear()
        if not self._quitting:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._asked.wait()

    async def _take_part(self, enrolment: Enrolment) -> None:
        async with Coordinator(
            enrolment.base_url, enrolment.context, enrolment.worker_id, enrolment.token, self.traffic
        ) as server:
            self.agent = agent = Agent(
                server,
                enrolment,
                self.home,
                self.settings,
                self._engine_command,
                unattended=self._unattended,
                waits=self._waits,
                polite=self.polite,
                traffic=self.traffic,
                room=self.room,
            )
            agent.on_change = self._changed
            if self._orders is not None:
                self._apply(self._orders)
            shares = kept(self.traffic, enrolment, lambda: agent.state.alone and self.rules.network.leave_room)
            measures = [self.uplink.keep(server, self._line_is_free)] if self.polite else []
            always = (self.standing.ask(server), self.naming.keep(server), shares)
            beside = [asyncio.create_task(part) for part in (*always, *measures)]
            try:
                await agent.run()
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
                self.agent = None
                self.teller.changed()
            await self.standing.last_look(server)

    def _line_is_free(self) -> bool:
        """It may be used, and training does not."""
        decided, agent = self.decision, self.agent
        return bool(decided and decided.network and agent and agent.state.phase in life.QUIET)

    # What the policy decides.

    @property
    def file(self) -> SettingsFile:
        return self._volunteer.file

    @property
    def rules(self) -> Settings:
        """The volunteer's. Where nobody shares the computer, only what was asked for by hand is left of them."""
        return self.file.settings if self.polite else by_hand(self.file.settings, self.settings.name)

    def _look_up(self) -> Settings:
        if self._volunteer.heed_edits():
            self.teller.changed()
        return self.rules

    def _known(self) -> Sequence[Active]:
        state = self.agent.state if self.agent is not None else None
        known = self._unusable.reasons(self.agent.attempt if self.agent is not None else None)
        # Of this membership; or of several, each of which ended with one.
        trouble, crashes = (state.trouble, state.crashes) if state is not None else (None, ())
        if trouble is None and self._ends.hopeless:
            trouble, crashes = self.trouble, self._ends.crashes
        known += beside_sensors(self._coming, self.file, trouble, len(crashes), finished=self.finished)
        if (lacking := self.room.lacking()) is not None:
            known.append(lacking)
        return known

    def _decided(self, decision: Decision, readings: Readings) -> None:
        before, self.decision, self.readings = self.decision, decision, readings
        self.traffic.obey(self.rules, readings, bursts=decision.network)
        if self.polite:
            self.equipment.see(readings.gpus)
            self.room.measure(self.rules, readings)
        self._orders = orders(decision, self.device, self.cards, time.monotonic(), self._orders)
        if isinstance(decision, Run):
            self._offer = offer(decision.limits) if self.polite else Offer()
        self._has_decided.set()
        if self.agent is not None:
            self._apply(self._orders)
        self._resting_since = self.teller.decided(before, decision, self._resting_since)

    def _apply(self, given: Orders) -> None:
        agent = self.agent
        assert agent is not None
        agent.offer = self._offer
        if self.polite:
            agent.cards = given.cards
            if given.throttle is not None:
                agent.limit(given.throttle)
        wish, has = given.wish, agent.state.wish
        if wish is None and has is not None:
            agent.resume()
        elif wish is not None and wish.is_more_than(has):
            agent.pause(wish)

    @property
    def resting(self) -> bool:
        return isinstance(self.decision, Pause)

    @property
    def at_rest(self) -> bool:
        return self.agent is None or self.agent.state.phase in life.AT_REST

    @property
    def engine_pid(self) -> int | None:
        return self.agent.attempt.engine_pid if self.agent is not None else None

    @property
    def device(self) -> str | None:
        """What the engine computes on, once it has said so."""
        listening = self.agent.attempt.listening if self.agent is not None else None
        return listening.device.kind if listening is not None else None

    @property
    def cards(self) -> str | None:
        """That the engine may see; None: all, or there is no engine."""
        return self.agent.attempt.cards if self.agent is not None else None

    def _on_gpu(self) -> bool:
        return self.device == "cuda" and self.agent is not None and self.agent.state.phase is life.Phase.TRAINING

    # What happens.

    def _changed(self, before: life.State, state: life.State) -> None:
        if self.agent is not None:
            self.teller.heard(self.agent.away)
        self._have_finished(state)
        if (before.trouble, before.finishing) != (state.trouble, state.finishing):
            self.look_again()
        if before.phase in life.AT_REST and state.phase not in life.AT_REST and self._guard is not None:
            self._guard.look_again()  # what was read may be as old as nothing was to be stopped
        self.teller.moved(before, state)

    def _have_finished(self, state: life.State) -> None:
        """Once nothing of this round is computed any more, by whatever it was ended."""
        if self.finishing and (state.phase is not life.Phase.TRAINING or state.wish is not None):
            self.finishing, self.finished = False, True
            self.look_again()

    @property
    def tokens_per_s(self) -> float:
        """Of the newest step; none while nothing is computed."""
        return self.agent.tokens_per_s if self.agent is not None else 0.0

    def _now(self) -> Now:
        card = next((gpu for gpu in self.readings.gpus if str(gpu.index) == self.cards), None)
        return Now(self.tokens_per_s, self.engine_pid, self.readings, card)

    async def _heed_notices(self, watch: Watch) -> None:
        async for notice in watch.notices():
            self._coming = notice.coming
            if notice.coming is Coming.SHUTDOWN:
                self.journal.add("shutdown", "The computer shuts down: what was learned is kept.")
                self.quit("the computer shuts down")
                if self.agent is not None:  # the engine keeps its state with its last breath
                    await self.agent.until(life.Phase.LEAVING, life.Phase.ENDED)
            notice.ready()
            self.look_again()
