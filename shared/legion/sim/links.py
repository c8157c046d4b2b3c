"""Calls between simulated workers: the other side's production code, after the time that the bytes take."""

from collections.abc import Callable

from legion.codec.api import Codec, Floats, encoded_bytes
from legion.comm.api import Ballot, Batches, Verdict
from legion.comm.local import LocalLink
from legion.comm.member import Member
from legion.comm.rounds import OPENING_BYTES, Desk, Room
from legion.errors import LegionError, NotFound, PeerLost, PeerRefused
from legion.ids import Step, UnitId, WorkerId
from legion.messages import Member as Place
from legion.rounds import PartKey, ResidualKey, UpdateKey
from legion.sim.network import Kind, Network

Desks = Callable[[WorkerId], Desk | None]


class ClusterLink(LocalLink):
    """From one member of a cluster to another. See `comm.member.Link`."""

    def __init__(self, network: Network, source: Member, target: Member) -> None:
        super().__init__(source, target)
        self._network = network

    async def fetch(self, step: Step, unit: UnitId, out: Floats) -> None:
        await self._ask()
        await super().fetch(step, unit, out)
        size = encoded_bytes(self._target.weights_codec, out.size)
        await self._network.carry(self._target.me, self._source.me, "weights", values_bytes=size)

    async def send_gradient(
        self, step: Step, batches: Batches, unit: UnitId, *values: Floats, codec: Codec | None = None
    ) -> None:
        size = encoded_bytes(codec or self._source.gradients_codec, sum(piece.size for piece in values))
        await self._network.carry(self._source.me, self._target.me, "gradients", values_bytes=size)
        await super().send_gradient(step, batches, unit, *values, codec=codec)
        await self._answer()

    async def claim(self, step: Step, serial: int, batch_count: int) -> int | None:
        await self._ask()
        index = await super().claim(step, serial, batch_count)
        await self._answer()
        return index

    async def rest(self, step: Step, batch_count: int) -> None:
        await self._ask()
        await super().rest(step, batch_count)
        await self._answer()

    async def vote(self, step: Step, ballot: Ballot) -> Verdict:
        await self._ask()
        verdict = await super().vote(step, ballot)
        await self._answer()
        return verdict

    async def _ask(self) -> None:
        await self._network.carry(self._source.me, self._target.me, "control")

    async def _answer(self) -> None:
        await self._network.carry(self._target.me, self._source.me, "control")


class RoundCalls:
    """From one worker to those of other clusters. See `outer.courier.Links`."""

    def __init__(self, network: Network, me: WorkerId, desks: Desks) -> None:
        self._network = network
        self._me = me
        self._desks = desks
        self.fetched: Kind = "serving"  # what updates that are fetched count as; for who catches up: join

    async def send_part(self, member: Place, key: PartKey, data: bytes) -> None:
        worker = member.worker_id
        # With the name travel the first values, so that the line is not idle until it is admitted.
        opening = min(len(data), round(OPENING_BYTES / self._network.scale))
        text_bytes = len(key.model_dump_json())
        with self._network.line(self._me).carrying_part() as leaves:
            leaves(round(opening * self._network.scale))
            await self._network.carry(self._me, worker, "contribution", values_bytes=opening, text_bytes=text_bytes)
            desk = self._desk(worker)
            try:
                await desk.admit(self._me, key)
                if opening < len(data):
                    await self._network.carry(worker, self._me, "control")
                    leaves(round((len(data) - opening) * self._network.scale))
                    await self._network.carry(self._me, worker, "contribution", values_bytes=len(data) - opening)
                leaves(0)
                await desk.take_part(self._me, key, data)
            except LegionError:
                await self._network.carry(worker, self._me, "control")
                raise
            await self._network.carry(worker, self._me, "control")

    async def send_residual(self, member: Place, key: ResidualKey, data: bytes) -> None:
        worker, text_bytes = member.worker_id, len(key.model_dump_json())
        await self._network.carry(self._me, worker, "contribution", values_bytes=len(data), text_bytes=text_bytes)
        await self._desk(worker).take_residual(self._me, key, data)
        await self._network.carry(worker, self._me, "control")

    async def fetch_blob(self, member: Place, sha256: str, size_bytes: int, into: bytearray) -> None:
        worker, kind = member.worker_id, self.fetched
        await self._network.carry(self._me, worker, "control", text_bytes=len(sha256))
        update = self._desk(worker).update(sha256)
        if update is None:
            await self._network.carry(worker, self._me, "control")
            raise NotFound(f"no update {sha256[:12]} is here")
        left = bytes(update[len(into) :])
        await self._network.carry(worker, self._me, kind, values_bytes=len(left))
        into += left

    async def await_update(self, member: Place, key: UpdateKey, most_bytes: int, room: Room) -> tuple[str, bytes]:
        worker = member.worker_id
        await self._network.carry(self._me, worker, "control")
        sha256 = await self._desk(worker).made(key)
        update = self._desk(worker).update(sha256)
        if update is None:
            raise NotFound(f"update {sha256[:12]} is here no more")
        data = bytes(update)
        async with room(len(data)):
            await self._network.line(worker).free()
            await self._network.carry(worker, self._me, self.fetched, values_bytes=len(data), text_bytes=len(sha256))
        return sha256, data

    def _desk(self, worker: WorkerId) -> Desk:
        desk = self._desks(worker)
        if desk is None:
            raise PeerLost(f"{worker} takes part in no round")
        if not desk.knows(self._me):
            raise PeerRefused(f"{worker} does not know {self._me}")
        return desk
