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
class Collection:
    """One unit's gradient for my range: the sum so far, and which micro-batches it covers."""

    batch_count: int
    out: Floats
    covered: dict[int, WorkerId] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.covered) == self.batch_count

    @property
    def next_index(self) -> int:
        """The smallest micro-batch not covered."""
        return next(i for i in range(self.batch_count + 1) if i not in self.covered)


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

        Nothing is read before that, so a fast member is slowed by the network's flow control, not stored here.
        """
        if not batches.indices or sorted(set(batches.indices)) != list(batches.indices):
            raise PartInvalid(f"{sender}: micro-batches {batches.indices} are not a sorted set")
        await self._changes.until(lambda: self._step > step or (self._step == step and unit in self._collections))
        new = self._is_new(sender, step, unit, batches)
        if not new or not self._ordered:
            return new
        await self._changes.until(lambda: self._step > step or self._collections[unit].next_index >= batches.indices[0])
        return self._is_new(sender, step, unit, batches)  # another delivery of this part may have come first

    def add(self, sender: WorkerId, step: Step, unit: UnitId, batches: Batches, values: Floats) -> bool:
        """A part that was admitted and read completely: added as a whole or not at all.

        False: not again. After a broken connection two deliveries of one part may be read at the same time.
        """
        new = self._is_new(sender, step, unit, batches)
        if not all_finite(values):
            raise NotFinite(f"the gradient of unit {unit} from {sender} holds NaN or infinity")
        if not new:
            return False
        collection = self._collections[unit]
        if collection.covered:
            np.add(collection.out, values, out=collection.out)
        else:
            np.copyto(collection.out, values)
        collection.covered.update(dict.fromkeys(batches.indices, sender))
        self._changes.happened()
        return True

    def _is_new(self, sender: WorkerId, step: Step, unit: UnitId, batches: Batches) -> bool:
        """Whether none of the micro-batches is there yet; not, if all are there from the same sender."""
        if self._step != step:
            raise PartInvalid(f"{sender}: a gradient of step {step} came in step {self._step}")
        collection = self._collections[unit]
        if batches.indices[-1] >= collection.batch_count:
            raise PartInvalid(f"{sender}: micro-batch {batches.indices[-1]} of {collection.batch_count}")
        owners = {collection.covered.get(index) for index in batches.indices}
        if owners not in ({sender}, {None}):
            raise PartInvalid(f"{sender}: micro-batches {batches.indices} overlap with {sorted(collection.covered)}")
        return owners == {None}

    async def complete(self, step: Step, unit: UnitId) -> None:
        """Until the parts cover every micro-batch of the step."""
        await self._changes.until(lambda: self._step != step or self._collections[unit].complete)
        if self._step != step:
            raise PartInvalid(f"step {step} is over, step {self._step} has begun")
