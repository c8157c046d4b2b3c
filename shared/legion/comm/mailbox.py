"""What a member offers and receives during a step: published weights, and gradient parts summed as they land.

Lives on the event loop. Late, early and repeated parts are handled here and nowhere else.
"""

from dataclasses import dataclass, field

import numpy as np

from legion.codec.api import Floats
from legion.comm.api import Batches
from legion.comm.frames import all_finite
from legion.comm.waiting import Changes
from legion.errors import NotFinite, PartInvalid
from legion.ids import Step, UnitId, WorkerId


class Shelf:
    """The version of my slice that others may fetch, unit by unit."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._published: dict[UnitId, tuple[Step, Floats]] = {}

    def put(self, step: Step, unit: UnitId, weights: Floats) -> None:
        self._published[unit] = (step, weights)
        self._changes.happened()

    async def get(self, step: Step, unit: UnitId) -> Floats:
        """The unit's part at `step`, once it is published. PartInvalid for a step that is over."""

        def there() -> bool:
            return unit in self._published and self._published[unit][0] >= step

        await self._changes.until(there)
        version, weights = self._published[unit]
        if version != step:
            raise PartInvalid(f"weights of step {step} were asked for, the unit is at step {version}")
        return weights


@dataclass(slots=True)
class Part:
    """What one member sends for one unit and set of micro-batches, while it comes in."""

    sender: WorkerId
    added: int = 0  # elements, from the start
    delivery: object = None  # the one that may add: after a broken connection the newest


@dataclass(slots=True)
class Collection:
    """One unit's gradient for my range: the sum so far, and which micro-batches it covers."""

    batch_count: int
    out: Floats
    begun: int = 0  # elements, from the start, that hold a sum; those behind hold anything
    covered: dict[int, WorkerId] = field(default_factory=dict)
    parts: dict[tuple[int, ...], Part] = field(default_factory=dict)  # begun, not complete

    def add(self, start: int, piece: Floats) -> None:
        """The first to come is written, not added to zeros. No part is ahead of `begun`, so there are no gaps."""
        stop, summed = start + piece.size, max(0, min(piece.size, self.begun - start))
        target = self.out[start:stop]
        np.add(target[:summed], piece[:summed], out=target[:summed])
        if not np.may_share_memory(target, piece):  # decoded where it belongs
            target[summed:] = piece[summed:]
        self.begun = max(self.begun, stop)

    @property
    def complete(self) -> bool:
        return len(self.covered) == self.batch_count

    @property
    def next_index(self) -> int:
        """The smallest micro-batch not covered."""
        return next(i for i in range(self.batch_count + 1) if i not in self.covered)

    def owners(self, indices: tuple[int, ...]) -> set[WorkerId | None]:
        """Who has sent these micro-batches, or is sending them as a part of another cut."""
        found = {self.covered.get(index) for index in indices}
        return found | {part.sender for other, part in self.parts.items() if other != indices and {*other} & {*indices}}


class Delivery:
    """One reading of one part: a `frames.Sink` that adds each piece to the sum as it arrives.

    A connection may break in the middle; what the next delivery of the part repeats is not added again. The sum is of
    no use before it is complete, so nobody ever sees a part of a part.
    """

    def __init__(self, collection: Collection, indices: tuple[int, ...], part: Part) -> None:
        self.size = collection.out.size
        self._collection = collection
        self._indices = indices
        self._part = part
        self._scratch = np.empty(0, dtype=np.float32)
        part.delivery = self

    def room(self, start: int, stop: int) -> Floats:
        if self._collection.begun == start == self._part.added and self._part.delivery is self:
            return self._collection.out[start:stop]  # nothing to add to
        if self._scratch.size < stop - start:
            self._scratch = np.empty(stop - start, dtype=np.float32)
        return self._scratch[: stop - start]

    def take(self, start: int, piece: Floats) -> None:
        """Elements beyond those that an earlier delivery added; nothing if another delivery has taken over."""
        new = self._part.added - start
        if self._part.delivery is not self or new >= piece.size:
            return
        self._collection.add(start + new, piece[new:])
        self._part.added = start + piece.size
        if self._part.added == self.size:
            del self._collection.parts[self._indices]
            self._collection.covered.update(dict.fromkeys(self._indices, self._part.sender))


class Mailbox:
    """Gradient parts, keyed by (step, unit). `ordered`: parts are added in the order of their micro-batches."""

    def __init__(self, changes: Changes, *, ordered: bool) -> None:
        self._changes = changes
        self._ordered = ordered
        self._collections: dict[UnitId, Collection] = {}
        self._step = Step(-1)

    def open(self, step: Step, unit: UnitId, batch_count: int, out: Floats) -> None:
        """Parts for the unit may come in now; their sum will be in `out`, whatever it holds."""
        if step != self._step:
            self._step = step
            self._collections.clear()
        self._collections[unit] = Collection(batch_count, out)
        self._changes.happened()

    async def admit(self, sender: WorkerId, step: Step, unit: UnitId, batches: Batches) -> bool:
        """Wait until this part may be read. False: it was added before, a repeated delivery.

        Nothing behind its first frame is read before that, so a fast member is slowed by the network's flow control,
        not stored here.
        """
        if not batches.indices or sorted(set(batches.indices)) != list(batches.indices):
            raise PartInvalid(f"{sender}: micro-batches {batches.indices} are not a sorted set")
        await self._changes.until(lambda: self._step > step or (self._step == step and unit in self._collections))
        new = self._is_new(sender, step, unit, batches)
        # The first two parts may come in either order, or mixed: a + b is b + a to the last bit.
        if not new or not self._ordered or batches.indices[0] <= 1:
            return new

        def over_or_due() -> bool:
            collection = self._collections.get(unit)
            if self._step > step or collection is None:
                return True
            return collection.next_index >= batches.indices[0] or collection.owners(batches.indices) != {None}

        await self._changes.until(over_or_due)
        return self._is_new(sender, step, unit, batches)  # another delivery of this part may have come first

    def deliver(self, sender: WorkerId, step: Step, unit: UnitId, batches: Batches) -> Delivery | None:
        """The sink for a part that was admitted; None if it has come completely since."""
        if not self._is_new(sender, step, unit, batches):
            return None
        collection = self._collections[unit]
        part = collection.parts.setdefault(batches.indices, Part(sender))
        return Delivery(collection, batches.indices, part)

    def delivered(self) -> None:
        """A delivery has ended: those who wait for the sum, or for their turn, look again."""
        self._changes.happened()

    def add(self, sender: WorkerId, step: Step, unit: UnitId, batches: Batches, *values: Floats) -> bool:
        """A whole part that is here already; False if it was added before."""
        self._require_now(sender, step)
        if not all(map(all_finite, values)):
            raise NotFinite(f"the gradient of unit {unit} from {sender} holds NaN or infinity")
        delivery = self.deliver(sender, step, unit, batches)
        if delivery is None:
            return False
        start = 0
        for piece in values:
            delivery.take(start, piece)
            start += piece.size
        self.delivered()
        return True

    def _is_new(self, sender: WorkerId, step: Step, unit: UnitId, batches: Batches) -> bool:
        """Whether none of the micro-batches is there yet; not, if all are there from the same sender."""
        self._require_now(sender, step)
        collection = self._collections[unit]
        if batches.indices[-1] >= collection.batch_count:
            raise PartInvalid(f"{sender}: micro-batch {batches.indices[-1]} of {collection.batch_count}")
        owners = collection.owners(batches.indices)
        if owners not in ({sender}, {None}):
            raise PartInvalid(f"{sender}: micro-batches {batches.indices} overlap with {sorted(collection.covered)}")
        part = collection.parts.get(batches.indices)
        if part is not None and part.sender != sender:
            raise PartInvalid(f"{sender}: micro-batches {batches.indices} are on their way from {part.sender}")
        return owners == {None}

    def _require_now(self, sender: WorkerId, step: Step) -> None:
        if self._step != step:
            raise PartInvalid(f"{sender}: a gradient of step {step} came in step {self._step}")

    async def complete(self, step: Step, unit: UnitId) -> None:
        """Until the parts cover every micro-batch of the step."""
        await self._changes.until(lambda: self._step != step or self._collections[unit].complete)
        if self._step != step:
            raise PartInvalid(f"step {step} is over, step {self._step} has begun")
