"""Error feedback around any codec: what an encoding dropped goes into the next one (Seide et al. 2014).

For streams: a sender encodes `E = beta * E + x` and, once it knows that the bytes counted, keeps `E - decoded`.
Invariant with beta = 1: everything that was included + E = everything that was given.
"""

from typing import TypedDict

import numpy as np

from legion.codec.api import AnyCodec, Bytes, Floats, require_chunks, require_finite
from legion.codec.blocks import PIECE
from legion.errors import PartInvalid
from legion.layout import CHUNK

NONE = np.empty(0, dtype=np.uint8)


class FeedbackState(TypedDict):
    """`residual`: E, float32, one element per element of the stream; `pending`: unsettled bytes, empty if none."""

    residual: Floats
    pending: Bytes


class Feedback:
    """The residual of one stream of `numel` elements, a whole number of chunks: 4 bytes an element."""

    def __init__(self, codec: AnyCodec, numel: int, beta: float = 1.0) -> None:
        require_chunks(numel)
        self.residual: Floats = np.zeros(numel, dtype=np.float32)
        self._codec = codec
        self._beta = np.float32(beta)
        self._pending = NONE

    @property
    def is_pending(self) -> bool:
        return self._pending.size > 0

    def encode(self, values: Floats) -> memoryview:
        """E with `values` added, encoded. NotFinite changes nothing; ValueError if the encoding before is unsettled."""
        if self.is_pending:
            raise ValueError("the encoding before is neither included nor missed yet")
        total = np.multiply(self.residual, self._beta)
        np.add(total, values, out=total)
        require_finite(total)
        self._pending = np.frombuffer(bytes(self._codec.encode(total)), dtype=np.uint8)
        self.residual = total
        return self._pending.data

    def included(self) -> None:
        """The pending encoding counted: E keeps what it dropped."""
        for start in range(0, self.residual.size, PIECE * CHUNK):
            rest = self.residual[start : start + PIECE * CHUNK]
            decoded = np.empty_like(rest)
            self._codec.decode_range(self._pending.data, self.residual.size, start, decoded)
            np.subtract(rest, decoded, out=rest)
        self._pending = NONE

    def missed(self) -> None:
        """The pending encoding counted for nothing: E keeps all of it."""
        self._pending = NONE

    def state_dict(self) -> FeedbackState:
        return {"residual": self.residual.copy(), "pending": self._pending.copy()}

    def load_state_dict(self, state: FeedbackState) -> None:
        """PartInvalid when it is the state of another stream."""
        if state["residual"].shape != self.residual.shape:
            raise PartInvalid(f"feedback of {state['residual'].size} elements for {self.residual.size}")
        self.residual = state["residual"].astype(np.float32)
        self._pending = state["pending"].astype(np.uint8)
