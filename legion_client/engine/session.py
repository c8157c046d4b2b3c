"""One membership in a run: build the model, listen, join the plan, train, leave.

The event loop serves the network; one compute thread does everything with torch. `Session` lives on the loop and hands
work to that thread; what the thread has to say comes back through `Reports`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from legion.checkpoint.copies import CopyLink, CopyService
from legion.codec.api import AnyCodec
from legion.codec.on_device import encoder_for
from legion.codec.registry import by_name
from legion.comm.api import Group
from legion.comm.bridge import Bridge
from legion.comm.exchange import MemberExchange
from legion.comm.member import Member
from legion.comm.network import PeerNetwork, listen
from legion.comm.peers import COMPLETE, PAUSED
from legion.config import config_digest
from legion.data.blocks import open_blocks
from legion.data.loader import Loader
from legion.errors import LegionError, PeerLost, RunError, StepAborted
from legion.identity import Identity
from legion.ids import Rank
from legion.layout import Layout
from legion.messages import Broken, Message, Plan
from legion.model.build import Blueprint, blueprint
from legion.outer.courier import Courier
from legion.outer.member import Place
from legion.train.device import best_device, card_problem, card_uuid, describe
from legion.train.loop import Training, require_same_data
from legion.train.pace import Pace
from legion_client.engine import garbage
from legion_client.engine.absent import telling_broken
from legion_client.engine.compute_thread import forget_frames, on_compute_thread
from legion_client.engine.course import Course, Neighbours, first_anchor, point_folder
from legion_client.engine.links import Links
from legion_client.engine.points import held
from legion_client.engine.protocol import (
    REGROUP_S,
    HandedOver,
    Held,
    Listening,
    Pause,
    PlanBroken,
    Prepare,
    Rates,
    StepDone,
    Train,
)
from legion_client.engine.rounds import Rounds
from legion_client.engine.speaker import Report
from legion_client.engine.throttling import Throttling
from legion_client.engine.traffic_told import TrafficTold

logger = logging.getLogger(__name__)
NO_SERVICE_S = 1.0  # for the step under way, where the others cannot go on while we rest


class Session:
    """From Prepare to the end of the engine."""

    def __init__(self, prepare: Prepare, report: Report) -> None:
        self._prepare = prepare
        self._report = report
        self._identity = Identity.load(prepare.identity_dir)
        self._device = best_device(prepare.device_kinds)
        self._training: Training | None = None
        self._stop_asked = self._rest_asked = False
        self._pause_heard_at: float | None = None
        self.pace = Pace(self._held)
        self.throttling = Throttling(self.pace, self._device, card_uuid(self._device), prepare.power_note)
        self.member: Member | None = None
        self._next_plan: asyncio.Future[Train | None] | None = None  # None as its result: there will be none
        self.rounds = Rounds(report)
        self._broken_at: float | None = None  # a plan whose place another takes, until its first step

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self._prepare.config.steps

    @property
    def steps_done(self) -> int:
        return self._training.steps_done if self._training else 0

    def _built(self) -> Blueprint:
        garbage.collect()  # modules, hooks and parameters of the plan before refer to one another
        return blueprint(self._prepare.config, self._prepare.manifest.vocab_size)

    async def prepare(self) -> None:
        """Load the data, build the model on meta, listen; then say so."""
        self.throttling.begin()
        self._loader, self._blueprint = await on_compute_thread(self._load)
        folder = self._folder = point_folder(self._prepare.work_dir)
        host, port = self._prepare.listen_host, self._prepare.listen_port
        self.network: PeerNetwork = await listen(
            self._identity, host, port, lambda peers: (CopyService(peers, folder),)
        )
        self.links = Links(self._identity, self.network, self._report)
        self.traffic = TrafficTold(self.network.rounds.line, self.links, self._report)
        self._report(
            Listening(
                port=self.network.port,
                shape=self._blueprint.shape,
                device=describe(self._device),
                card_problem=card_problem(self._prepare.device_kinds),
            )
        )

    def _load(self) -> tuple[Loader, Blueprint]:
        prepare = self._prepare
        require_same_data(prepare.config, prepare.manifest.fingerprint)
        self._built()  # for what it imports
        garbage.set_aside()
        blocks = open_blocks(prepare.manifest, prepare.cache_dir, seed=prepare.config.seed)
        return Loader(blocks, prepare.config.batch), self._built()

    async def train(self, command: Train) -> int:
        """Until the run's last step or `stop`; the steps done. LegionError when the run cannot go on."""
        self._require_fit(command.plan)
        with self._loader:
            async with self._between_clusters(command) as courier:
                return await self._plans(command, courier)

    async def _plans(self, command: Train, courier: Courier | None) -> int:
        """One after the other."""
        while True:
            try:
                return await self._follow(command, courier)
            except _Regrouping as regrouping:
                command = regrouping.command
            # The model's parameters belong to what the plan before made of them.
            self._blueprint = await on_compute_thread(self._built)

    @contextlib.asynccontextmanager
    async def _between_clusters(self, command: Train) -> AsyncIterator[Courier | None]:
        """What rounds need, for all plans that follow one another here; None: the run has none."""
        config, plan = self._prepare.config, command.plan
        if not config.in_rounds:
            yield None
            return
        anchor = first_anchor(self._prepare, command) if plan.restore is None else plan.restore.anchor
        place = self._place(plan)
        work_dir = self._prepare.work_dir
        async with self.rounds.taking_part(config, self._identity, place, anchor, self.network, work_dir) as courier:
            yield courier

    def _place(self, plan: Plan) -> Place:
        rounds = self._prepare.config.round_count
        return Place(plan.run_id, plan.cluster, self._rank(plan), _layout(plan), rounds, plan.epoch)

    def _rank(self, plan: Plan) -> Rank:
        return Rank([member.worker_id for member in plan.members].index(self._identity.worker_id))

    async def _follow(self, command: Train, courier: Courier | None) -> int:
        """One plan. _Regrouping when another takes its place."""
        plan = command.plan
        self._require_fit(plan)
        member = self.member = self._member_of(plan)
        member.on_transfer, member.on_away = self.links.transferred, self.links.away
        if courier is not None:
            member.changes.on_failure.append(courier.plan_broken)
        self._next_plan = asyncio.get_running_loop().create_future()
        endpoints = {Rank(r): m.endpoint for r, m in enumerate(plan.members)}
        before = {m.worker_id for m in plan.restore.members} if plan.restore is not None else ()
        async with self.network.joined(member, endpoints, before) as channels:
            course = self._course(command, courier, member, channels)
            try:
                done = await self._computed(course, courier)
            except _Regrouping:
                raise
            except Exception as error:
                # The others shall say why, not just that we are gone.
                await self.network.leave(str(error) if isinstance(error, LegionError) else type(error).__name__)
                raise
            early = PAUSED if self._rest_asked else "stopped by its user"
            await self.network.leave(COMPLETE if done == self.steps else early)
        return done

    def _tell(self, report: Message) -> None:
        if isinstance(report, StepDone) and self._broken_at is not None:
            logger.info("goes on step=%d after_s=%.3f", report.record.step, time.monotonic() - self._broken_at)
            self._broken_at = None
        self._report(report)

    def _member_of(self, plan: Plan) -> Member:
        config = self._prepare.config
        return Member(
            Group(plan.epoch, tuple(member.worker_id for member in plan.members), self._rank(plan)),
            _layout(plan),
            ordered=config.cluster.claims == "static",
            weights=by_name(config.codecs.weights),
            gradients=by_name(config.codecs.gradients),
            line=self.network.rounds.line,
        )

    def _course(self, command: Train, courier: Courier | None, member: Member, channels: Mapping[Rank, Any]) -> Course:
        plan, config = command.plan, self._prepare.config
        bridge = Bridge(asyncio.get_running_loop(), member.usage)
        links = {member.group.members[r]: CopyLink(c, member.group.members[r], member) for r, c in channels.items()}
        place = self._place(plan) if courier is not None else None
        return Course(
            self._prepare,
            command,
            member.layout,
            MemberExchange(member, bridge, static_claims=config.cluster.claims == "static"),
            self._blueprint,
            self._loader,
            self._device,
            self.pace,
            self._tell,
            Neighbours(self._identity.worker_id, self._folder, links, bridge),
            self._encoder_of_contributions,
            lambda error: self._may_regroup(plan, error),
            place,
            courier,
        )

    async def _computed(self, course: Course, courier: Courier | None) -> int:
        """The steps done; what a cluster that cannot go on still owes to others is handed over."""
        try:
            try:
                done = await on_compute_thread(lambda: self._compute(course))
            except (PeerLost, StepAborted) as error:
                if self._may_regroup(course.plan, error):
                    raise _Regrouping(await self._regrouped(course, error)) from None
                raise
        except (PeerLost, StepAborted):  # our cluster has ended, and nothing is wrong with us
            if courier is not None:
                await self._hand_over(courier)
            raise
        if courier is not None and done < self.steps:
            await self._hand_over(courier)
        return done

    def _may_regroup(self, plan: Plan, error: LegionError) -> bool:
        """Whether those who are left may go on from a restore point."""
        able = self._prepare.config.in_rounds and self._prepare.config.cluster.restores(len(plan.members))
        return able and not self._stop_asked and isinstance(error, PeerLost | StepAborted)

    async def _regrouped(self, course: Course, error: LegionError) -> Train:
        """What takes the place of this plan; `error` when nothing does."""
        member = self.member
        assert member is not None
        logger.warning("plan broken epoch=%d why=%s", course.plan.epoch, error)
        self._broken_at = time.monotonic()
        self.network.break_off()
        assert self._next_plan is not None
        changes, plan = member.changes, course.plan
        points, contributed = held(self._folder), course.contributed
        broken = Broken(epoch=plan.epoch, points=points, contributed=contributed, told_by=changes.told_by)
        told = PlanBroken(broken=broken, message=str(error), lost_peer=changes.lost_peer)
        here = self._next_plan.done()  # before anybody was told
        telling = contextlib.nullcontext() if here else telling_broken(self._report, told, member.me, plan)
        following = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REGROUP_S), telling:
                following = await self._next_plan
        if following is None:
            await on_compute_thread(course.leave)
            raise error
        plan, lost = following.plan, course.steps_lost(following.plan)
        logger.info("plan replaced epoch=%d members=%d steps_lost=%d", plan.epoch, len(plan.members), lost)
        self._training = None
        forget_frames(error)  # they hold the slice, and another is about to need that memory
        return following

    def follow(self, command: Train) -> None:
        """Another plan takes the place of the one that is followed; one that comes twice or late changes nothing."""
        if self.member is not None and command.plan.epoch <= self.member.group.epoch:
            logger.warning(
                "plan ignored, a newer one is followed epoch=%d followed=%d",
                command.plan.epoch,
                self.member.group.epoch,
            )
            return
        if self._next_plan is not None and not self._next_plan.done():
            self._next_plan.set_result(command)
        if self.member is not None:
            self.member.changes.fail(StepAborted("another plan takes the place of this one"))

    def regroup(self) -> None:
        """Break off once the cluster has contributed: another member is to take part."""
        logger.info("regrouping")
        if self._training is not None:
            self._training.regrouping.set()

    async def _hand_over(self, courier: Courier) -> None:
        """What we had not put into updates yet; takes `handover.LEAVING_S` at most."""
        handover = await courier.hand_over()
        if handover is not None and handover.spans:
            self._report(HandedOver(handover=handover))

    def _require_fit(self, plan: Plan) -> None:
        if plan.shape != self._blueprint.shape:
            raise RunError("the plan is for a model of another shape than the configuration builds here")
        if plan.config_digest != config_digest(self._prepare.config):
            raise RunError("the plan is for another configuration than the one this engine was prepared with")
        if self._identity.worker_id not in {member.worker_id for member in plan.members}:
            raise RunError("the plan does not have this worker as a member")

    def _compute(self, course: Course) -> int:
        """On the compute thread."""

        def begun(training: Training) -> None:
            self._training = training
            if self._rest_asked:
                training.resting.set()
            if self._stop_asked:
                training.stopping.set()

        with self.throttling.computing():
            return course.run(begun)

    def _encoder_of_contributions(self, codec: AnyCodec) -> AnyCodec:
        """On our card, unless its memory was asked for."""
        return codec if self.pace.serving else encoder_for(self._device)(codec)

    def pause(self, command: Pause) -> None:
        self._pause_heard_at = None if command.after_contribution else time.monotonic()
        if not command.serves:
            self.pace.pause(after_contribution=command.after_contribution)
        elif self._can_serve:
            self._rest_asked = True  # whenever it leaves from now on
            self.pace.serve()
        else:
            self.stop(NO_SERVICE_S, rests=True)

    @property
    def _can_serve(self) -> bool:
        """The others of our cluster can do without our computing."""
        config = self._prepare.config
        return config.in_rounds and config.cluster.claims == "dynamic"

    def resume(self) -> None:
        self._rest_asked = self._stop_asked and self._rest_asked
        self.pace.resume()
        self.throttling.holds(False)

    def limit_line(self, rates: Rates) -> None:
        line = self.network.rounds.line
        line.upload.limit(rates.upload_bytes_per_s, rates.burst_s)
        line.download.limit(rates.download_bytes_per_s, rates.burst_s)
        self.links.limit(rates)

    def _held(self) -> None:
        self.throttling.holds(True)
        heard_at = self._pause_heard_at
        self._report(Held(after_s=0.0 if heard_at is None else time.monotonic() - heard_at))

    def stop(self, within_s: float | None = None, *, rests: bool = False) -> None:
        """Leave after the step under way; if it takes longer than `within_s`, without it. `rests`: see Stop."""
        self._stop_asked, self._rest_asked = True, rests
        if rests and self._training is not None:
            self._training.resting.set()
        if within_s is not None:
            self.pace.give_up(within_s)
            if self.pace.serving and self.member is not None:  # which may wait for what others compute
                self.member.changes.fail(StepAborted("the step was given up, as this computer leaves"))
        if self._training is not None:
            self._training.stopping.set()
        if self._next_plan is not None and not self._next_plan.done():
            self._next_plan.set_result(None)
        self.rounds.wake()


class _Regrouping(Exception):
    """Another plan takes the place of this one."""

    def __init__(self, command: Train) -> None:
        super().__init__()
        self.command = command


def _layout(plan: Plan) -> Layout:
    return Layout(plan.shape.sizes, tuple(member.share for member in plan.members))
