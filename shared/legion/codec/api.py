"""What a codec is, and which one a wire id names.

Values are quantised once, at the sender; owners sum what they decode in float32. Encoding works on whole chunks of
`layout.CHUNK` elements and each chunk's bytes stand alone, so a stream of frames can be decoded as it arrives.
Everything is numpy with one ufunc per rounding: a codec gives the same bytes on every CPU.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from legion.errors import NotFinite, PartInvalid
from legion.layout import CHUNK

Floats = NDArray[np.float32]


class Codec(Protocol):
    """One way to write float32 values. `wire_id` is fixed for ever."""

    name: str
    wire_id: int
    chunk_bytes: int  # encoded size of one chunk of 4,096 elements; every codec here has a fixed rate
    lossy: bool

    def encode(self, values: Floats) -> bytes | memoryview:
        """A whole number of chunks. NotFinite when a lossy codec meets NaN or infinity."""

    def decode(self, data: memoryview, out: Floats) -> None:
        """Exactly the bytes of `out.size` elements into `out`; PartInvalid on anything else."""


def encoded_bytes(codec: Codec, numel: int) -> int:
    """Size on the wire of `numel` elements, a whole number of chunks."""
    return numel // CHUNK * codec.chunk_bytes


def require_chunks(numel: int) -> None:
    if numel % CHUNK:
        raise ValueError(f"codecs work on whole chunks of {CHUNK} elements, got {numel}")


def require_size(codec: Codec, data: memoryview, out: Floats) -> None:
    """The check every decoder starts with."""
    require_chunks(out.size)
    if data.nbytes != encoded_bytes(codec, out.size):
        raise PartInvalid(f"{codec.name}: {data.nbytes} bytes for {out.size} elements")


def require_finite(largest: NDArray[np.float32]) -> None:
    """`largest` holds the largest magnitude of each block."""
    if not np.isfinite(largest).all():
        raise NotFinite("a tensor to send holds NaN or infinity")
