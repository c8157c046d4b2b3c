"""One member of a cluster, on the event loop: what it offers to the others, and its links to them.

    compute thread            event loop
    MemberExchange --bridge--> Member --links--> other Members
                                  ^---- server or local link calls of the others

The links are gRPC (`peers`) or direct calls (`local`); everything else is the same code.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Protocol

from legion.codec.api import Codec, Floats
from legion.comm.api import Ballot, Batches, Group, Usage, Verdict
from legion.comm.ballots import BallotBox, Claims
from legion.comm.line import Line
from legion.comm.mailbox import Mailbox, Shelf
from legion.comm.pieces import cut
from legion.comm.waiting import Changes
from legion.errors import LegionError, NotFinite, PartInvalid, PeerPaused
from legion.ids import Rank, Step, UnitId, WorkerId
from legion.layout import CHUNK, Layout

logger = logging.getLogger(__name__)

LEADER = Rank(0)
_PIECE = 64 * CHUNK  # elements re-encoded at a time when a member reads its own lossy weights


class Link(Protocol):
    """One other member, seen from here. Every call is safe to repeat."""

    async def fetch(self, step: Step, unit: UnitId, out: Floats) -> None: ...

    async def send_gradient(
        self, step: Step, batches: Batches, unit: UnitId, *values: Floats, codec: Codec | None = None
    ) -> None:
        """`codec`: instead of the sender's for gradients."""

    async def claim(self, step: Step, serial: int, batch_count: int) -> int | None: ...

    async def rest(self, step: Step, batch_count: int) -> None: ...

    async def vote(self, step: Step, ballot: Ballot) -> Verdict: ...


class Member:
    """What one member holds for the others. All methods run on the loop."""

    def __init__(
        self,
        group: Group,
        layout: Layout,
        *,
        ordered: bool,
        weights: Codec,
        gradients: Codec,
        line: Line | None = None,
    ) -> None:
        """`line`: this worker's, if it is shared with others."""
        if layout.world != group.world:
            raise ValueError(f"a layout for {layout.world} in a group of {group.world}")
        self.group = group
        self.layout = layout
        self.weights_codec = weights
        self.gradients_codec = gradients
        self.usage = Usage()
        self.line = line or Line()
        self.links: Mapping[Rank, Link] = {}
        # Weights came from a member, so many bytes in so many s.
        self.on_transfer: Callable[[WorkerId, int, float], None] = lambda _peer, _size_bytes, _took_s: None
        # A member cannot be reached, or can be again: where it is by now, the coordinator knows.
        self.on_away: Callable[[WorkerId, bool], None] = lambda _peer, _away: None
        self.changes = Changes()
        self.shelf = Shelf(self.changes)
        self.mailbox = Mailbox(self.changes, ordered=ordered)
        self._claims = Claims()
        self._ballots = BallotBox(self.changes, frozenset(group.members))
        self._serials: tuple[Step, int] = (Step(-1), 0)

    @property
    def me(self) -> WorkerId:
        return self.group.members[self.group.rank]

    def require_unit(self, unit: int) -> UnitId:
        if not 0 <= unit < len(self.layout.units):
            raise PartInvalid(f"unit {unit} of {len(self.layout.units)}")
        return UnitId(unit)

    async def gather(self, step: Step, unit: UnitId, out: Floats) -> None:
        """The unit from all its owners at once, my own part included."""
        async with Together() as together:
            for rank in self.layout.ranks:
                bounds = self.layout.bounds(unit, rank)
                if len(bounds):
                    together.start(self._gather_part(rank, step, unit, out[bounds.start : bounds.stop]))

    async def _gather_part(self, rank: Rank, step: Step, unit: UnitId, out: Floats) -> None:
        if rank != self.group.rank:
            await self.links[rank].fetch(step, unit, out)
            return
        values = await self.shelf.get(step, unit)
        if not self.weights_codec.lossy:
            out[:] = values
            return
        # Everybody computes with the same weights, so the owner too takes what the wire would have given.
        with naming(self.me):
            for start in range(0, values.size, _PIECE):
                piece = memoryview(self.weights_codec.encode(values[start : start + _PIECE]))
                self.weights_codec.decode(piece, out[start : start + _PIECE])

    async def scatter(
        self, step: Step, batches: Batches, unit: UnitId, *gradient: Floats, codec: Codec | None = None
    ) -> None:
        """Each owner's range of a gradient to its owner, all at once."""
        async with Together() as together:
            for rank in self.layout.ranks:
                bounds = self.layout.bounds(unit, rank)
                if len(bounds):
                    values = cut(gradient, bounds.start, bounds.stop)
                    together.start(self._scatter_part(rank, step, batches, unit, values, codec))

    async def _scatter_part(
        self, rank: Rank, step: Step, batches: Batches, unit: UnitId, values: list[Floats], codec: Codec | None
    ) -> None:
        if rank != self.group.rank:
            await self.links[rank].send_gradient(step, batches, unit, *values, codec=codec)
        elif await self.mailbox.admit(self.me, step, unit, batches):
            self.mailbox.add(self.me, step, unit, batches, *values)

    @contextlib.contextmanager
    def receiving(self, sender: WorkerId) -> Iterator[None]:
        """While a gradient comes in: one that cannot be used means that this step can never be complete here."""
        try:
            yield
        except (PartInvalid, NotFinite) as error:
            if self.changes.failure is None:  # else it is somebody else's fault
                logger.warning("gradient refused sender=%s why=%s", sender, error)
                self.changes.fail(error)
            raise

    async def claim(self, step: Step, batch_count: int) -> int | None:
        serial = self._serials[1] if self._serials[0] == step else 0
        self._serials = (step, serial + 1)
        if self.group.rank == LEADER:
            return self.give_claim(self.me, step, serial, batch_count)
        return await self.links[LEADER].claim(step, serial, batch_count)

    def give_claim(self, worker: WorkerId, step: Step, serial: int, batch_count: int) -> int | None:
        if self.changes.failure is not None:
            raise self.changes.failure
        self._require_leader()
        return self._claims.claim(worker, step, serial, batch_count)

    async def rest(self, step: Step, batch_count: int) -> None:
        if self.group.rank == LEADER:
            self.take_rest(self.me, step, batch_count)
        else:
            await self.links[LEADER].rest(step, batch_count)

    def take_rest(self, worker: WorkerId, step: Step, batch_count: int) -> None:
        self._require_leader()
        if self._claims.rest(worker, step, batch_count) >= frozenset(self.group.members):
            self.changes.fail(PeerPaused("every computer of this cluster was paused"))

    async def vote(self, step: Step, ballot: Ballot) -> Verdict:
        if self.group.rank == LEADER:
            return await self.take_vote(self.me, step, ballot)
        return await self.links[LEADER].vote(step, ballot)

    async def take_vote(self, worker: WorkerId, step: Step, ballot: Ballot) -> Verdict:
        self._require_leader()
        return await self._ballots.vote(worker, step, ballot)

    def _require_leader(self) -> None:
        if self.group.rank != LEADER:
            raise PartInvalid("claims and votes go to the first member of the plan")


class Together:
    """Coroutines that succeed together: the first failure cancels the others and comes out, unwrapped."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self._group.create_task(work)

    async def __aenter__(self) -> "Together":
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        try:
            await self._group.__aexit__(*exc_info)
        except BaseExceptionGroup as failed:
            ours = failed.subgroup(LegionError)
            raise (ours or failed).exceptions[0] from None


@contextlib.contextmanager
def naming(peer: WorkerId) -> Iterator[None]:
    """Whoever sent what cannot be used is named."""
    try:
        yield
    except (PartInvalid, NotFinite) as error:
        if peer in str(error):
            raise
        raise type(error)(f"{peer}: {error}") from error
