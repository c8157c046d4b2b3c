"""One member's side of one span: what it learned leaves as parts, and what was not taken waits.

Invariant, for both forms of feedback and whatever is lost, late or repeated: work that entered anchors + work that
waits = work done. A part is settled by the committed record alone, never by an answer to its sending.

Work waits as minus itself added to the weights: local weights below the anchor are work done. In the `residual` form
it stays in the local weights. In the `buffer` form it moves into a buffer E when a part is made, so that local weights
start at the anchor again (SparseLoCo, arXiv 2508.15706); E decays.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from legion.codec.api import AnyCodec, Floats, require_finite
from legion.errors import PartInvalid

Feedback = Literal["residual", "buffer"]
NOTHING: Final = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Part:
    """An encoded part that nobody has settled yet."""

    round: int
    codec: AnyCodec
    data: bytes
    flush: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a contributor holds between two calls."""

    pending: Part | None
    buffer: Floats  # E; empty in the residual form
    moved: Floats  # of the pending part: what leaves the local weights once it is settled, empty if nothing does


class Contributor:
    """Owns the feedback of one span of one member's slice; `numel` elements, a whole number of chunks."""

    def __init__(self, numel: int, feedback: Feedback, decay: float) -> None:
        self.numel = numel
        self._feedback = feedback
        self._decay = np.float32(decay)
        self.pending: Part | None = None
        self.buffer = np.zeros(numel if feedback == "buffer" else 0, np.float32)  # E
        self._moved = NOTHING  # what left the local weights for E, or will with a flush

    def contribute(self, round_number: int, displacement: Floats, codec: AnyCodec, *, flush: bool) -> Part:
        """The part for this round; `displacement` = anchor - local weights, kept by us from now on.

        A contribution that is still pending must be settled first: ValueError. NotFinite changes nothing here.
        """
        if self.pending is not None:
            raise ValueError(f"the part of round {self.pending.round} is not settled yet")
        require_finite(displacement)
        if self._feedback == "buffer":
            np.multiply(self.buffer, self._decay, out=self.buffer)
            np.add(self.buffer, displacement, out=self.buffer)
            data = bytes(codec.encode(self.buffer))
        else:
            data = bytes(codec.encode(displacement))
        if flush or self._feedback == "buffer":
            self._moved = displacement
        self.pending = Part(round_number, codec, data, flush)
        return self.pending

    def settle(self, round_number: int, clip_scale: float | None) -> Floats:
        """A record was committed; `clip_scale` of our contribution in it, None when it is not there.

        Returns what to add to the local weights, beside the change of the anchor (empty: nothing). A record of another
        round than the pending part's settles nothing.
        """
        part = self.pending
        if part is None or part.round != round_number:
            if self._feedback == "buffer" and part is None:  # a round missed
                np.multiply(self.buffer, self._decay, out=self.buffer)
            return NOTHING
        self.pending = None
        moved, self._moved = self._moved, NOTHING
        if self._feedback == "buffer":
            if part.flush and clip_scale is not None:
                self.buffer[:] = 0  # the dense contribution stood for all of it
            elif clip_scale is not None:
                np.subtract(self.buffer, self._decoded(part), out=self.buffer)
            return moved
        if clip_scale is None:
            return NOTHING
        if part.flush:
            return moved
        taken = self._decoded(part)
        np.multiply(taken, np.float32(clip_scale), out=taken)
        return taken

    def _decoded(self, part: Part) -> Floats:
        values = np.empty(self.numel, np.float32)
        part.codec.decode(memoryview(part.data), values)
        return values

    def state(self) -> "Waiting":
        """What must survive a restart: ours, so valid until the next call."""
        return Waiting(self.pending, self.buffer, self._moved)

    def restore(self, state: "Waiting") -> None:
        """Instead of what is here. PartInvalid when it is of another size or form; decay comes with `settle`."""
        moved = state.pending is not None and (state.pending.flush or self._feedback == "buffer")
        wanted = self.buffer.size, self.numel if moved else 0
        found = state.buffer.size, state.moved.size
        if found != wanted:
            raise PartInvalid(
                f"feedback of {found[0]} and {found[1]} elements, this span has {wanted[0]} and {wanted[1]}"
            )
        self.pending, self.buffer, self._moved = state.pending, state.buffer, state.moved

    def give_up(self) -> None:
        """Nothing waits here any more."""
        self.pending, self._moved = None, NOTHING
        self.buffer[:] = 0
