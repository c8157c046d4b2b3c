"""One simulated membership in a run: what `legion_client.engine.session` does, without processes, sockets and files.

Everything that decides or computes is the production code: member, exchange, ZeRO-3, courier, round member, loop.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from legion.codec.api import Floats
from legion.codec.registry import by_name
from legion.comm.api import Group, Usage
from legion.comm.arrays import array_of
from legion.comm.exchange import MemberExchange
from legion.comm.member import Member
from legion.config import RunConfig
from legion.data.blocks import Blocks
from legion.data.loader import Loader
from legion.errors import LegionError, PeerLost
from legion.ids import Rank, UnitId, WorkerId
from legion.layout import Layout
from legion.messages import Plan
from legion.model.build import Blueprint, blueprint
from legion.outer.arriving import Limits
from legion.outer.courier import Courier
from legion.outer.log import Anchor
from legion.outer.member import Place, RoundMember
from legion.outer.world import Control
from legion.sim.blobs import MemoryBlobs, Shelves
from legion.sim.clock import Actor, Crossing
from legion.sim.device import DeviceModel, PacedZero3
from legion.sim.links import ClusterLink, RoundCalls
from legion.sim.network import Network
from legion.train.loop import Listener, Training
from legion.train.rounds import RoundTraining

CPU = torch.device("cpu")


class SharedLoader(Loader):
    """Reads when asked: what a background thread would have ready takes no virtual time anyway."""

    def prefetch(self, first: int) -> None:
        """Nothing."""


@dataclass(frozen=True)
class World:
    """What all engines of a simulation share."""

    config: RunConfig
    vocab_size: int
    blocks: Blocks
    network: Network
    shelves: Shelves
    scale: float = 1.0  # of the model's parameters, to stand for a larger one

    @property
    def micro_batch_tokens(self) -> int:
        return self.config.batch.micro_batch_blocks * self.config.data.seq_len

    def model(self) -> Blueprint:
        """Every engine has its own: its parameters are where the engine's units are."""
        return blueprint(self.config, self.vocab_size)


def cluster_members(world: World, plan: Plan) -> dict[WorkerId, Member]:
    """The members of a cluster, linked."""
    config = world.config
    workers = tuple(member.worker_id for member in plan.members)
    layout = layout_of(plan)
    members = [
        Member(
            Group(plan.epoch, workers, rank),
            layout,
            ordered=config.cluster.claims == "static",
            weights=by_name(config.codecs.weights),
            gradients=by_name(config.codecs.gradients),
        )
        for rank in layout.ranks
    ]
    for member in members:
        member.links = {
            Rank(rank): ClusterLink(world.network, member, other)
            for rank, other in enumerate(members)
            if other is not member
        }
    return dict(zip(workers, members, strict=True))


def layout_of(plan: Plan) -> Layout:
    return Layout(plan.shape.sizes, tuple(member.share for member in plan.members))


class SimEngine:
    """From the plan to the end of the membership. `weights` is the whole model at the plan's first step."""

    def __init__(
        self,
        world: World,
        device: DeviceModel,
        plan: Plan,
        members: Mapping[WorkerId, Member],
        me: WorkerId,
        listener: Listener,
    ) -> None:
        self._world = world
        self._device = device
        self._plan = plan
        self._members = members
        self._me = me
        self._listener = listener
        self._actor: Actor[int] = Actor(f"engine {me}")
        self._zero: PacedZero3 | None = None
        self._training: Training | None = None
        self.courier: Courier | None = None  # while it takes part in rounds
        self._blobs = MemoryBlobs(world.shelves)
        self._rounds: RoundMember | None = None

    @property
    def member(self) -> Member:
        return self._members[self._me]

    @property
    def anchor(self) -> int:
        """The newest it has; -1: none yet."""
        return self._rounds.anchor if self._rounds else -1

    @property
    def weights(self) -> Floats:
        """This member's slice."""
        if self._zero is None:
            raise RuntimeError("the engine has not begun")
        return array_of(self._zero.slice.weights)

    @property
    def computed_s(self) -> float:
        """Virtual seconds of computing so far."""
        return self._zero.computed_s if self._zero else 0.0

    def leave(self, error: LegionError) -> None:
        """At once, wherever it is; the other members notice."""
        self._actor.interrupt(error)
        for member in self._members.values():
            member.changes.fail(PeerLost(f"{self._me} left the cluster"), self._me)

    async def train(self, weights: Floats) -> int:
        """In one cluster; the steps done."""
        return await self._actor.run(lambda: self._prepared(weights).run(0, 0))

    async def train_in_rounds(
        self, start: Anchor, calls: RoundCalls, control: Control, entered: Callable[[], None]
    ) -> int:
        """The steps of the run that the last anchor stands for. `entered`: the courier hears news from now on."""
        place = Place(
            self._plan.run_id,
            self._plan.cluster,
            self.member.group.rank,
            layout_of(self._plan),
            self._world.config.round_count,
        )
        try:
            async with self._taking_part(place, calls, control) as courier:
                self.courier = courier
                entered()
                return await self._actor.run(lambda: self._train_in_rounds(start, place, courier))
        finally:
            self.courier = None
            self._blobs.clear()

    @property
    def _first_anchor(self) -> int:
        return -(-self._plan.first_step // self._world.config.rounds.steps)

    @contextlib.asynccontextmanager
    async def _taking_part(self, place: Place, calls: RoundCalls, control: Control) -> AsyncIterator[Courier]:
        crossing = Crossing(self._actor, Usage())
        config = self._world.config.averaging
        limits = Limits().of_scale(self._world.scale)
        courier = Courier(self._me, config, place, self._first_anchor, calls, control, self._blobs, crossing, limits)
        async with courier.working():
            yield courier

    def _train_in_rounds(self, start: Anchor, place: Place, courier: Courier) -> int:
        training = self._prepared(start.values)
        assert self._zero is not None
        config, plan = self._world.config, self._plan
        momentum = None if start.momentum is None else self._slice_of(start.momentum)
        self._rounds = RoundMember(config.rounds, place, self.weights, self._first_anchor, courier, momentum)
        newcomer = plan.round > 0
        return RoundTraining(config, training, self._zero, self._loader, self._rounds, newcomer=newcomer).run(
            plan.round
        )

    def _prepared(self, weights: Floats) -> Training:
        """On the actor: model, slice and loop."""
        world, config = self._world, self._world.config
        plan, layout = world.model(), layout_of(self._plan)
        member, crossing = self.member, Crossing(self._actor, self.member.usage)
        exchange = MemberExchange(member, crossing, static_claims=config.cluster.claims == "static")
        zero = self._zero = PacedZero3(
            plan.units,
            layout,
            exchange,
            cluster=config.cluster,
            optimizer=config.optimizer,
            steps=config.steps,
            device=CPU,
        )
        zero.pace(self._device, self._actor, micro_batch_tokens=world.micro_batch_tokens, scale=world.scale)
        self.weights[:] = self._slice_of(weights)
        self._loader = SharedLoader(world.blocks, config.batch)
        self._training = Training(
            config, plan.model, zero, exchange, self._loader, self._listener, CPU, self._actor.loop.time
        )
        return self._training

    def _slice_of(self, whole: Floats) -> Floats:
        """This member's, copied."""
        layout, rank = layout_of(self._plan), self.member.group.rank
        bounds = [(offset, layout.bounds(UnitId(unit), rank)) for unit, offset in enumerate(layout.offsets)]
        return np.concatenate([whole[offset + own.start : offset + own.stop] for offset, own in bounds])
