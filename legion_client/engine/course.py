"""One plan on the compute thread: the slice, then the steps. What outlives a plan is the session's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from legion.checkpoint.copies import CopyLink, PointFolder
from legion.checkpoint.shards import read_slice
from legion.codec.api import Encoder
from legion.comm.api import Exchange
from legion.comm.arrays import array_of
from legion.comm.bridge import Bridge
from legion.data.loader import Loader
from legion.data.tokenizer import cached_tokenizer
from legion.errors import CheckpointInvalid, LegionError
from legion.ids import Rank, UnitId, WorkerId
from legion.layout import Layout
from legion.messages import Plan
from legion.model.build import Blueprint
from legion.model.init import fill, theta_0
from legion.outer.courier import Courier
from legion.outer.member import Place
from legion.train.loop import Training
from legion.train.pace import Pace
from legion.train.rounds import RoundTraining
from legion.train.writer import Writer
from legion.zero.engine import Zero3
from legion_client.engine.local_state import LocalState, Returned, anchor_of, restored, started
from legion_client.engine.points import Points, restored_files
from legion_client.engine.protocol import Prepare, Train, Wrote
from legion_client.engine.speaker import Report, Speaker, parts_of


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The other members of the plan, for restore points."""

    me: WorkerId
    folder: PointFolder
    links: Mapping[WorkerId, CopyLink]
    bridge: Bridge


@dataclass(slots=True)
class Course:
    """What one plan needs. `place` and `courier`: in a run in rounds. `waits`: see `RoundTraining`."""

    prepare: Prepare
    command: Train
    layout: Layout
    exchange: Exchange
    blueprint: Blueprint
    loader: Loader
    device: torch.device
    pace: Pace
    report: Report
    neighbours: Neighbours
    encoder: Encoder  # of contributions
    waits: Callable[[LegionError], bool]
    place: Place | None = None
    courier: Courier | None = None
    _rounds: RoundTraining | None = None
    _zero: Zero3 | None = None

    @property
    def plan(self) -> Plan:
        return self.command.plan

    @property
    def rank(self) -> Rank:
        return self.exchange.group.rank

    def run(self, begun: Callable[[Training], None]) -> int:
        """The steps done. `begun` is told what can be asked to stop, before the first of them."""
        config = self.prepare.config
        zero = Zero3(
            self.blueprint.units,
            self.layout,
            self.exchange,
            cluster=config.cluster,
            optimizer=config.optimizer,
            steps=config.steps,
            device=self.device,
        )
        self._zero = zero
        tokens = self._fill_slice(zero)
        speaker = Speaker(self.plan, self.rank, zero.slice, self.prepare.work_dir, self.report)
        self.blueprint.model.to(self.device)
        training = Training(
            config,
            self.blueprint.model,
            zero,
            self.exchange,
            self.loader,
            speaker,
            self.device,
            pace=self.pace,
            writer=self._writer(),
        )
        begun(training)
        if self.place is None or self.courier is None:
            return training.run(self.plan.first_step, tokens)
        self._rounds = self._round_training(training, zero, self.place, self.courier)
        return self._rounds.run(self.plan.round)

    def leave(self) -> None:
        """After an error on which another plan might have followed, and none did: what is to be kept is."""
        if self._rounds is not None:
            self._rounds.leave()

    @property
    def step(self) -> int:
        """Of the cluster, as this plan counts them; 0 before the first."""
        return self._zero.step if self._zero is not None else 0

    def steps_lost(self, following: Plan) -> int:
        """Since the restore point that the plan after this one goes on from."""
        restore = following.restore
        return self.step - (restore.step if restore is not None and restore.epoch == self.plan.epoch else 0)

    @property
    def contributed(self) -> int:
        """The newest round that a contribution was made for, under a plan before too; -1: none."""
        before = self.plan.restore.contributed if self.plan.restore is not None else -1
        return max(before, self._rounds.contributed if self._rounds is not None else -1)

    def _fill_slice(self, zero: Zero3) -> int:
        """theta_0, or the state of a checkpoint; the tokens the run has seen so far."""
        if self.plan.restore is not None or anchor_of(self.command) is not None:
            return 0  # the restore point, or the state, has them
        if self.command.resume_slice is None:
            theta = theta_0(self.prepare.config)
            for number, unit in enumerate(self.blueprint.shape.units):
                start = self.layout.bounds(UnitId(number), self.rank).start
                fill(array_of(zero.part(UnitId(number)).weights), unit, start, theta)
            return 0
        info = read_slice(self.command.resume_slice, parts_of(zero.slice))
        if info.step != self.plan.first_step:
            raise CheckpointInvalid(
                f"{self.command.resume_slice} is of step {info.step}, the plan starts at step {self.plan.first_step}"
            )
        return info.tokens

    def _writer(self) -> Writer | None:
        prepare = self.prepare
        if not (tokens := prepare.config.evaluation.sample_tokens):
            return None
        tokenizer = cached_tokenizer(prepare.manifest, prepare.cache_dir)
        return Writer(tokenizer, tokens, lambda sample: self.report(Wrote(sample=sample)))

    # Rounds.

    def _round_training(self, training: Training, zero: Zero3, place: Place, courier: Courier) -> RoundTraining:
        config = self.prepare.config
        returned = self._returned(zero, place, courier)
        path = self.prepare.state_path
        points = self._points(courier)
        keeper = LocalState(path, config, place, returned.member, zero, self.report, points)
        return RoundTraining(
            config,
            training,
            zero,
            self.loader,
            returned.member,
            newcomer=self.plan.round > 0 and self.plan.restore is None,
            optimizer_steps=returned.optimizer_steps,
            keeper=keeper,
            goes_on=returned.goes_on,
            waits=self.waits,
        )

    def _returned(self, zero: Zero3, place: Place, courier: Courier) -> Returned:
        config, restore = self.prepare.config, self.plan.restore
        if restore is None:
            anchor = first_anchor(self.prepare, self.command)
            return started(config, place, self.command, anchor, zero.slice, courier, self.encoder)
        near = self.neighbours
        with restored_files(near.folder, restore, near.me, near.links, near.bridge) as files:
            near.bridge.submit(courier.take_seat(place, files[Rank(0)].info.anchor)).wait()
            return restored(config, place, files, restore.contributed, zero.slice, courier, self.encoder)

    def _points(self, courier: Courier) -> Points | None:
        group, near, cluster = self.exchange.group, self.neighbours, self.prepare.config.cluster
        if not cluster.restores(group.world):
            return None
        every = cluster.restore_every
        following = near.links[group.members[(group.rank + 1) % group.world]] if group.world > 1 else None
        return Points(near.folder, group.epoch, group.rank, following, near.bridge, every, courier.may_go_back)


def first_anchor(prepare: Prepare, command: Train) -> int:
    """Of the weights that an engine starts from."""
    kept = anchor_of(command)
    return -(-command.plan.first_step // prepare.config.rounds.steps) if kept is None else kept


def point_folder(work_dir: Path) -> PointFolder:
    return PointFolder(work_dir / "points")
