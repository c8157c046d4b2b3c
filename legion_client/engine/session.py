"""One membership in a run: build the model, listen, join the plan, train, leave.

The event loop serves the network; one compute thread does everything with torch. `Session` lives on the loop and hands
work to that thread; what the thread has to say comes back through `Reports`.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from legion.checkpoint.shards import read_slice
from legion.codec.api import AnyCodec
from legion.codec.on_device import encoder_for
from legion.codec.registry import by_name
from legion.comm.api import Group
from legion.comm.arrays import array_of
from legion.comm.bridge import Bridge
from legion.comm.exchange import MemberExchange
from legion.comm.member import Member
from legion.comm.network import PeerNetwork, listen
from legion.comm.peers import COMPLETE, PAUSED
from legion.config import config_digest
from legion.data.blocks import open_blocks
from legion.data.loader import Loader
from legion.data.tokenizer import cached_tokenizer
from legion.errors import CheckpointInvalid, LegionError, PeerLost, RunError, StepAborted
from legion.identity import Identity
from legion.ids import Rank, UnitId
from legion.layout import Layout
from legion.messages import Plan
from legion.model.build import Blueprint, blueprint
from legion.model.init import fill, theta_0
from legion.outer.courier import Courier
from legion.outer.member import Place
from legion.train.device import best_device, card_problem, card_uuid, describe
from legion.train.loop import Training, require_same_data
from legion.train.pace import Pace
from legion.train.rounds import RoundTraining
from legion.train.writer import Writer
from legion.zero.engine import Zero3
from legion_client.engine.local_state import LocalState, anchor_of, started
from legion_client.engine.protocol import (
    HandedOver,
    Held,
    Listening,
    Moved,
    Pause,
    Prepare,
    Rates,
    Train,
    Wrote,
)
from legion_client.engine.rounds import Rounds
from legion_client.engine.speaker import Report, Speaker, parts_of
from legion_client.engine.throttling import Throttling

logger = logging.getLogger(__name__)
NO_SERVICE_S = 1.0  # for the step under way, where the others cannot go on while we rest
TRAFFIC_S = 5.0  # between two reports of it: what a crash forgets
T = TypeVar("T")


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
        self._pace = Pace(self._held)
        self.throttling = Throttling(self._pace, self._device, card_uuid(self._device), prepare.power_note)
        self._told = (0, 0)  # bytes sent and received
        self.member: Member | None = None
        self.rounds = Rounds(report)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self._prepare.config.steps

    @property
    def steps_done(self) -> int:
        return self._training.steps_done if self._training else 0

    async def prepare(self) -> None:
        """Load the data, build the model on meta, listen; then say so."""
        self.throttling.begin()
        self._loader, self._blueprint = await on_compute_thread(self._load)
        self.network: PeerNetwork = await listen(self._identity, self._prepare.listen_host, self._prepare.listen_port)
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
        blocks = open_blocks(prepare.manifest, prepare.cache_dir, seed=prepare.config.seed)
        return Loader(blocks, prepare.config.batch), blueprint(prepare.config, prepare.manifest.vocab_size)

    async def train(self, command: Train) -> int:
        """Until the run's last step or `stop`; the steps done. LegionError when the run cannot go on."""
        plan = command.plan
        self._require_fit(plan)
        workers = tuple(member.worker_id for member in plan.members)
        rank = Rank(workers.index(self._identity.worker_id))
        layout = Layout(plan.shape.sizes, tuple(member.share for member in plan.members))
        config = self._prepare.config
        static = config.cluster.claims == "static"
        member = self.member = Member(
            Group(plan.epoch, workers, rank),
            layout,
            ordered=static,
            weights=by_name(config.codecs.weights),
            gradients=by_name(config.codecs.gradients),
            line=self.network.rounds.line,
        )
        exchange = MemberExchange(
            member,
            Bridge(asyncio.get_running_loop(), member.usage),
            static_claims=static,
        )
        endpoints = {Rank(r): m.endpoint for r, m in enumerate(plan.members)}
        async with self.network.joined(member, endpoints):
            try:
                done = await self._trained(command, layout, exchange)
            except Exception as error:
                # The others shall say why, not just that we are gone.
                await self.network.leave(str(error) if isinstance(error, LegionError) else type(error).__name__)
                raise
            early = PAUSED if self._rest_asked else "stopped by its user"
            await self.network.leave(COMPLETE if done == config.steps else early)
        return done

    async def _trained(self, command: Train, layout: Layout, exchange: MemberExchange) -> int:
        """The steps done; between clusters, if the run is in rounds."""
        config, plan = self._prepare.config, command.plan
        if not config.in_rounds:
            return await on_compute_thread(lambda: self._compute(command, layout, exchange, None))
        place = Place(plan.run_id, plan.cluster, exchange.group.rank, layout, config.round_count)
        work_dir = self._prepare.work_dir
        anchor = self._first_anchor(command)
        async with self.rounds.taking_part(config, self._identity, place, anchor, self.network, work_dir) as courier:
            try:
                done = await on_compute_thread(lambda: self._compute(command, layout, exchange, (place, courier)))
            except (PeerLost, StepAborted):  # our cluster has ended, and nothing is wrong with us
                await self._hand_over(courier)
                raise
            if done < config.steps:
                await self._hand_over(courier)
            return done

    async def _hand_over(self, courier: Courier) -> None:
        """What we had not put into updates yet; takes `handover.LEAVING_S` at most."""
        handover = await courier.hand_over()
        if handover is not None and handover.spans:
            self._report(HandedOver(handover=handover))

    def _first_anchor(self, command: Train) -> int:
        """Of the weights that we start from."""
        kept = anchor_of(command)
        return -(-command.plan.first_step // self._prepare.config.rounds.steps) if kept is None else kept

    def _require_fit(self, plan: Plan) -> None:
        if plan.shape != self._blueprint.shape:
            raise RunError("the plan is for a model of another shape than the configuration builds here")
        if plan.config_digest != config_digest(self._prepare.config):
            raise RunError("the plan is for another configuration than the one this engine was prepared with")
        if self._identity.worker_id not in {member.worker_id for member in plan.members}:
            raise RunError("the plan does not have this worker as a member")

    def _compute(
        self, command: Train, layout: Layout, exchange: MemberExchange, rounds: tuple[Place, Courier] | None
    ) -> int:
        """On the compute thread: the slice, then the loop."""
        config = self._prepare.config
        zero = Zero3(
            self._blueprint.units,
            layout,
            exchange,
            cluster=config.cluster,
            optimizer=config.optimizer,
            steps=config.steps,
            device=self._device,
        )
        tokens = self._fill_slice(command, layout, exchange.group.rank, zero)
        speaker = Speaker(command.plan, exchange.group.rank, zero.slice, self._prepare.work_dir, self._report)
        with self.throttling.computing(), self._loader:
            self._blueprint.model.to(self._device)
            training = self._training = Training(
                config,
                self._blueprint.model,
                zero,
                exchange,
                self._loader,
                speaker,
                self._device,
                pace=self._pace,
                writer=self._writer(),
            )
            if self._rest_asked:
                training.resting.set()
            if self._stop_asked:
                training.stopping.set()
            if rounds is None:
                return training.run(command.plan.first_step, tokens)
            return self._round_training(command, training, zero, *rounds).run(command.plan.round)

    def _writer(self) -> Writer | None:
        prepare = self._prepare
        if not (tokens := prepare.config.evaluation.sample_tokens):
            return None
        tokenizer = cached_tokenizer(prepare.manifest, prepare.cache_dir)
        return Writer(tokenizer, tokens, lambda sample: self._report(Wrote(sample=sample)))

    def _round_training(
        self, command: Train, training: Training, zero: Zero3, place: Place, courier: Courier
    ) -> RoundTraining:
        config, path = self._prepare.config, self._prepare.state_path
        returned = started(
            config, place, command, self._first_anchor(command), zero.slice, courier, self._encoder_of_contributions
        )
        keeper = LocalState(path, config, place, returned.member, zero, self._report) if path is not None else None
        return RoundTraining(
            config,
            training,
            zero,
            self._loader,
            returned.member,
            newcomer=command.plan.round > 0,
            optimizer_steps=returned.optimizer_steps,
            keeper=keeper,
        )

    def _encoder_of_contributions(self, codec: AnyCodec) -> AnyCodec:
        """On our card, unless its memory was asked for."""
        return codec if self._pace.serving else encoder_for(self._device)(codec)

    def _fill_slice(self, command: Train, layout: Layout, rank: Rank, zero: Zero3) -> int:
        """theta_0, or the state of a checkpoint; the tokens the run has seen so far."""
        if anchor_of(command) is not None:
            return 0  # the state has them
        if command.resume_slice is None:
            theta = theta_0(self._prepare.config)
            for number, unit in enumerate(self._blueprint.shape.units):
                start = layout.bounds(UnitId(number), rank).start
                fill(array_of(zero.part(UnitId(number)).weights), unit, start, theta)
            return 0
        info = read_slice(command.resume_slice, parts_of(zero.slice))
        if info.step != command.plan.first_step:
            raise CheckpointInvalid(
                f"{command.resume_slice} is of step {info.step}, the plan starts at step {command.plan.first_step}"
            )
        return info.tokens

    def pause(self, command: Pause) -> None:
        self._pause_heard_at = None if command.after_contribution else time.monotonic()
        if not command.serves:
            self._pace.pause(after_contribution=command.after_contribution)
        elif self._can_serve:
            self._rest_asked = True  # whenever it leaves from now on
            self._pace.serve()
        else:
            self.stop(NO_SERVICE_S, rests=True)

    @property
    def _can_serve(self) -> bool:
        """The others of our cluster can do without our computing."""
        config = self._prepare.config
        return config.in_rounds and config.cluster.claims == "dynamic"

    def resume(self) -> None:
        self._rest_asked = self._stop_asked and self._rest_asked
        self._pace.resume()
        self.throttling.holds(False)

    def limit_line(self, rates: Rates) -> None:
        line = self.network.rounds.line
        line.upload.limit(rates.upload_bytes_per_s)
        line.download.limit(rates.download_bytes_per_s)

    async def count_traffic(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(TRAFFIC_S)
            self.tell_traffic()

    def tell_traffic(self) -> None:
        line, (sent, received) = self.network.rounds.line, self._told
        self._told = line.upload.passed_bytes, line.download.passed_bytes
        if self._told != (sent, received):
            self._report(Moved(sent_bytes=self._told[0] - sent, received_bytes=self._told[1] - received))

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
            self._pace.give_up(within_s)
            if self._pace.serving and self.member is not None:  # which may wait for what others compute
                self.member.changes.fail(StepAborted("the step was given up, as this computer leaves"))
        if self._training is not None:
            self._training.stopping.set()
        self.rounds.wake()


async def on_compute_thread(work: Callable[[], T]) -> T:
    """Run `work` on a thread of its own, which does not keep the process alive.

    Not an executor: its threads are joined at exit, and a compute thread that waits for a lost device never ends.
    Whoever awaited it may be gone with its loop by the time the work ends: then nobody is told.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(how: Callable[..., None], outcome: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(how, done, outcome)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  carried to the loop, whoever awaits handles it
            tell(_fail, error)
        else:
            tell(_resolve, result)

    threading.Thread(target=run, name="compute", daemon=True).start()
    return await done


def _resolve(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[T]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
