"""What a codec is: float32 values to bytes and back, quantised once, at the sender.

Values come in whole chunks of `layout.CHUNK` elements, and what a chunk decodes to never depends on its neighbours.
Everything is numpy with one ufunc per rounding, so a codec gives the same bytes and the same floats on every CPU.
Arrays are host memory; `on_device` writes the same bytes on a graphics card.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from legion.errors import NotFinite, PartInvalid
from legion.layout import CHUNK

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class AnyCodec(Protocol):
    """One way to write float32 values, for what travels as one blob: contributions and updates.

    `wire_id` is fixed for ever.
    """

    @property
    def name(self) -> str: ...
    @property
    def wire_id(self) -> int: ...
    @property
    def lossy(self) -> bool: ...

    def most_bytes(self, numel: int) -> int:
        """The largest encoding of `numel` elements, a whole number of chunks."""

    def encode(self, values: Floats) -> bytes | memoryview:
        """A whole number of chunks. NotFinite when a lossy codec meets NaN or infinity."""

    def decode(self, data: memoryview, out: Floats) -> None:
        """The encoding of exactly `out.size` elements into `out`, which is contiguous; PartInvalid on anything else.

        What a lossy codec gives is finite, whatever the bytes. After an error `out` holds anything.
        """

    def decode_range(self, data: memoryview, numel: int, start: int, out: Floats) -> None:
        """Elements [start, start + out.size) of the `numel` that are encoded, all three whole chunks.

        PartInvalid as for `decode`, but only what is asked for is checked beyond its length.
        """


Encoder = Callable[[AnyCodec], AnyCodec]  # to one that writes the same bytes elsewhere


def in_host_memory(codec: AnyCodec) -> AnyCodec:
    """The `Encoder` that changes nothing."""
    return codec


class Codec(AnyCodec, Protocol):
    """A codec of fixed rate: each chunk's bytes stand alone, so a stream of them can be decoded as it arrives."""

    @property
    def chunk_bytes(self) -> int:
        """Encoded size of one chunk."""


class FixedRate(ABC):
    """What every codec of fixed rate has in common."""

    name: str
    chunk_bytes: int

    @abstractmethod
    def decode(self, data: memoryview, out: Floats) -> None: ...

    def most_bytes(self, numel: int) -> int:
        return numel // CHUNK * self.chunk_bytes

    def decode_range(self, data: memoryview, numel: int, start: int, out: Floats) -> None:
        if data.nbytes != self.most_bytes(numel):
            raise PartInvalid(f"{self.name}: {data.nbytes} bytes for {numel} elements")
        self.decode(data[self.most_bytes(start) : self.most_bytes(start + out.size)], out)


def encoded_bytes(codec: Codec, numel: int) -> int:
    """Size on the wire of `numel` elements, a whole number of chunks."""
    return numel // CHUNK * codec.chunk_bytes


def bits_per_value(codec: AnyCodec) -> float:
    """On the wire, at most; for long vectors."""
    numel = CHUNK << 16
    return codec.most_bytes(numel) * 8 / numel


def require_chunks(numel: int) -> None:
    if numel % CHUNK:
        raise ValueError(f"codecs work on whole chunks of {CHUNK} elements, got {numel}")


def require_room(out: Floats) -> None:
    """A decoder writes whole chunks to contiguous memory; into a copy of anything else it would write in vain."""
    require_chunks(out.size)
    if out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"codecs decode into contiguous float32, not into {out.dtype} with strides {out.strides}")


def require_size(codec: Codec, data: memoryview, out: Floats) -> None:
    """The check every decoder of fixed rate starts with."""
    require_room(out)
    if data.nbytes != encoded_bytes(codec, out.size):
        raise PartInvalid(f"{codec.name}: {data.nbytes} bytes for {out.size} elements")


def require_finite(largest: NDArray[np.float32]) -> None:
    """`largest` holds the largest magnitude of each block."""
    if not np.isfinite(largest).all():
        raise NotFinite("a tensor to send holds NaN or infinity")
