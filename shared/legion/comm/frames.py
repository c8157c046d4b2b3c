"""Tensor parts to frames and back: bounded pieces, CRC and lengths checked before anything is written.

A frame is a `peer.proto` Frame. Its bytes are put together and taken apart by hand here, because the generated
code would copy every payload twice; a test holds the two equal. The CRC runs on over the frames of a part, so a frame
that is lost, repeated or out of its place does not fit the one before it.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from google.protobuf.message import DecodeError
from zlib_ng.zlib_ng import crc32  # zlib's, with the CPU's instructions for it: five times as fast

from legion.codec.api import Codec, Floats, encoded_bytes
from legion.errors import NotFinite, PartInvalid
from legion.layout import CHUNK
from legion.proto.peer_pb2 import PartHeader

PAYLOAD_BYTES = 1 << 21  # at most, in one frame
# Every stream holds a few frames. Models with parts this large count their memory in units, so theirs are smaller;
# below it, fewer frames were worth a fifth of the speed.
LARGE_PART_BYTES = 4 << 20
LARGE_PART_PAYLOAD_BYTES = 1 << 18
_CRC_TAG = 0x0D  # field 1, fixed32
_PAYLOAD_TAG = 0x12  # field 2, length-delimited
_HEADER_BYTES = 4096  # the largest header that is read


def encode_frame(payload: bytes | memoryview, crc: int) -> bytes:
    """`crc`: see `Frame.crc` in peer.proto."""
    length = len(payload)
    size = bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return b"".join((b"\x0d", crc.to_bytes(4, "little"), b"\x12", size, payload))


def decode_frame(message: bytes, crc_before: int = 0) -> tuple[memoryview, int]:
    """The payload, not copied, and the CRC up to here. PartInvalid when the message is not exactly the next frame."""
    view = memoryview(message)
    if len(view) < 7 or view[0] != _CRC_TAG or view[5] != _PAYLOAD_TAG:
        raise PartInvalid(f"a message of {len(view)} bytes is no frame")
    length, shift, at = 0, 0, 6
    while True:
        if at >= len(view) or shift > 21:
            raise PartInvalid("a frame's length is damaged")
        byte = view[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    payload = view[at:]
    if length != len(payload):
        raise PartInvalid(f"a frame announces {length} bytes and holds {len(payload)}")
    crc = crc32(payload, crc_before)
    if crc != int.from_bytes(view[1:5], "little"):
        raise PartInvalid("a frame's CRC does not match: it is damaged or not the next one of its part")
    return payload, crc


def frames_of(header: PartHeader, codec: Codec, values: Floats) -> Iterator[bytes]:
    """The header's frame, then the values' frames, encoded one by one: memory stays at one frame.

    `values` is a whole number of chunks; the header's size fields are filled in here.
    """
    header.codec = codec.wire_id
    header.numel = values.size
    header.size_bytes = encoded_bytes(codec, values.size)
    announcement = header.SerializeToString()
    yield encode_frame(announcement, crc32(announcement))
    step, crc = chunks_per_frame(codec, header.size_bytes) * CHUNK, 0
    for start in range(0, values.size, step):
        payload = codec.encode(values[start : start + step])
        crc = crc32(payload, crc)
        yield encode_frame(payload, crc)


def chunks_per_frame(codec: Codec, part_bytes: int = 0) -> int:
    """Whole chunks in one frame of a part of `part_bytes` encoded bytes."""
    limit = LARGE_PART_PAYLOAD_BYTES if part_bytes > LARGE_PART_BYTES else PAYLOAD_BYTES
    return limit // codec.chunk_bytes


def frame_count(codec: Codec, numel: int) -> int:
    """Frames with values that a part of `numel` elements comes in."""
    return -(-numel // (chunks_per_frame(codec, encoded_bytes(codec, numel)) * CHUNK))


def decode_header(message: bytes) -> PartHeader:
    payload, _ = decode_frame(message)
    if len(payload) > _HEADER_BYTES:
        raise PartInvalid(f"a header of {len(payload)} bytes is too long")
    header = PartHeader()
    try:
        header.ParseFromString(bytes(payload))
    except DecodeError as error:
        raise PartInvalid("a header cannot be read") from error
    return header


class Sink(Protocol):
    """Where the elements of a part go, piece by piece, in order."""

    size: int

    def room(self, start: int, stop: int) -> Floats:
        """Where elements [start, stop) may be decoded to."""

    def take(self, start: int, piece: Floats) -> None:
        """Elements from `start` on, decoded and finite; `piece` lies in what `room` gave."""


class InPlace:
    """A sink that is just an array."""

    def __init__(self, out: Floats) -> None:
        self._out = out
        self.size = out.size

    def room(self, start: int, stop: int) -> Floats:
        return self._out[start:stop]

    def take(self, start: int, piece: Floats) -> None:
        """It lies where it belongs."""


class PartWriter:
    """Frames of one part into a sink, in order. `finish` says whether all of it came."""

    def __init__(self, header: PartHeader, codec: Codec, sink: Sink) -> None:
        if header.numel != sink.size or header.size_bytes != encoded_bytes(codec, sink.size):
            raise PartInvalid(f"a part of {header.numel} elements ({header.size_bytes} bytes) where {sink.size} belong")
        self._codec = codec
        self._sink = sink
        self._at = 0  # elements written
        self._crc = 0

    def write(self, message: bytes) -> None:
        payload, self._crc = decode_frame(message, self._crc)
        chunks, rest = divmod(len(payload), self._codec.chunk_bytes)
        end = self._at + chunks * CHUNK
        if rest or not chunks or end > self._sink.size:
            raise PartInvalid(f"a frame of {len(payload)} bytes after {self._at} of {self._sink.size} elements")
        piece = self._sink.room(self._at, end)
        self._codec.decode(payload, piece)
        if not all_finite(piece):
            raise NotFinite("a tensor that arrived holds NaN or infinity")
        self._sink.take(self._at, piece)
        self._at = end

    @property
    def complete(self) -> bool:
        return self._at == self._sink.size

    def finish(self) -> None:
        if not self.complete:
            raise PartInvalid(f"a part ended after {self._at} of {self._sink.size} elements")


def all_finite(values: Floats) -> bool:
    """Whether a part is usable: one pass, no temporary; NaN, infinity and overflow all make the sum not finite."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.dot(values, values)))
