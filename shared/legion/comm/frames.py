"""Tensor parts to frames and back: bounded pieces, CRC and lengths checked before anything is written.

A frame is a `peer.proto` Frame. Its bytes are put together and taken apart by hand here, because the generated
code would copy every payload twice; a test holds the two equal. The CRC runs on over the frames of a part, so a frame
that is lost, repeated or out of its place does not fit the one before it.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from google.protobuf.message import DecodeError
from zlib_ng.zlib_ng import crc32  # zlib's, with the CPU's instructions for it: five times as fast

from legion.codec.api import Codec, Floats, encoded_bytes
from legion.comm.pieces import cut, joined, size_of
from legion.errors import NotFinite, PartInvalid
from legion.layout import CHUNK
from legion.proto.peer_pb2 import PartHeader

PAYLOAD_BYTES = 1 << 21  # at most, in one frame
# Every stream holds a few frames. Models with parts this large count their memory in units, so theirs are smaller;
# below it, fewer frames were worth a fifth of the speed.
LARGE_PART_BYTES = 4 << 20
LARGE_PART_PAYLOAD_BYTES = 1 << 18
_HEADER_TAG = 0x0A  # field 1, length-delimited
_CRC_TAG = 0x15  # field 2, fixed32
_PAYLOAD_TAG = 0x1A  # field 3, length-delimited
HEADER_BYTES = 4096  # the largest header that is read


class Opening(NamedTuple):
    """What the first frame of a part holds, checked; the payload is not copied."""

    header: PartHeader
    payload: memoryview
    crc: int


def encode_frame(payload: bytes | memoryview, crc: int, header: bytes = b"") -> bytes:
    """`crc`: see `Frame.crc` in peer.proto."""
    opening = (bytes((_HEADER_TAG,)), _varint(len(header)), header) if header else ()
    check = (bytes((_CRC_TAG,)), crc.to_bytes(4, "little"))
    return b"".join((*opening, *check, bytes((_PAYLOAD_TAG,)), _varint(len(payload)), payload))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def decode_frame(message: bytes, crc_before: int) -> tuple[memoryview, int]:
    """The payload, not copied, and the CRC up to here. PartInvalid when the message is not exactly the next frame."""
    _, payload, crc = _checked(message, crc_before, opening=False)
    return payload, crc


def decode_opening(message: bytes) -> Opening:
    """The first frame of a part. PartInvalid when it is none."""
    encoded, payload, crc = _checked(message, 0, opening=True)
    header = PartHeader()
    try:
        header.ParseFromString(bytes(encoded))
    except DecodeError as error:
        raise PartInvalid("a header cannot be read") from error
    return Opening(header, payload, crc)


def _checked(message: bytes, crc_before: int, *, opening: bool) -> tuple[memoryview, memoryview, int]:
    """Header (empty after the opening), payload, and the CRC up to the frame's end."""
    view, at = memoryview(message), 0
    header = view[:0]
    try:
        if view[0] == _HEADER_TAG:
            length, at = _length(view, 1)
            if length > HEADER_BYTES:
                raise PartInvalid(f"a header of {length} bytes is too long")
            header, at = view[at : at + length], at + length
        if view[at] != _CRC_TAG or view[at + 5] != _PAYLOAD_TAG:
            raise IndexError
        announced = int.from_bytes(view[at + 1 : at + 5], "little")
        length, at = _length(view, at + 6)
    except IndexError:
        raise PartInvalid(f"a message of {len(view)} bytes is no frame") from None
    payload = view[at:]
    if length != len(payload):
        raise PartInvalid(f"a frame announces {length} bytes and holds {len(payload)}")
    if bool(header) != opening:
        raise PartInvalid("a part begins without a header" if opening else "a part begins in the middle of another")
    crc = crc32(payload, crc32(header, crc_before))
    if crc != announced:
        raise PartInvalid("a frame's CRC does not match: it is damaged or not the next one of its part")
    return header, payload, crc


def _length(view: memoryview, at: int) -> tuple[int, int]:
    """A varint, and what follows it. IndexError if the message ends in it."""
    length = 0
    for shift in range(0, 28, 7):
        byte = view[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, at
    raise PartInvalid("a frame's length is damaged")


def frames_of(header: PartHeader, codec: Codec, *values: Floats) -> Iterator[bytes]:
    """Encoded one by one: memory stays at one frame.

    `values` together are a whole number of chunks, and one at least; the header's size fields are filled in here.
    """
    header.codec = codec.wire_id
    header.numel = size_of(values)
    header.size_bytes = encoded_bytes(codec, header.numel)
    opening, crc = header.SerializeToString(), 0
    step = chunks_per_frame(codec, header.size_bytes) * CHUNK
    for start in range(0, header.numel, step):
        payload = codec.encode(joined(cut(values, start, start + step)))
        crc = crc32(payload, crc32(opening, crc))
        yield encode_frame(payload, crc, opening)
        opening = b""


def chunks_per_frame(codec: Codec, part_bytes: int = 0) -> int:
    """Whole chunks in one frame of a part of `part_bytes` encoded bytes."""
    limit = LARGE_PART_PAYLOAD_BYTES if part_bytes > LARGE_PART_BYTES else PAYLOAD_BYTES
    # Receivers decode a frame at a time: below a byte per element the elements are what takes their memory.
    return limit // max(codec.chunk_bytes, CHUNK)


def frame_count(codec: Codec, numel: int) -> int:
    """Frames that a part of `numel` elements comes in."""
    return -(-numel // (chunks_per_frame(codec, encoded_bytes(codec, numel)) * CHUNK))


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
    """Frames of one part into a sink, in order, the first at once. `finish` says whether all of it came."""

    def __init__(self, opening: Opening, codec: Codec, sink: Sink) -> None:
        header = opening.header
        if header.numel != sink.size or header.size_bytes != encoded_bytes(codec, sink.size):
            raise PartInvalid(f"a part of {header.numel} elements ({header.size_bytes} bytes) where {sink.size} belong")
        self._codec = codec
        self._sink = sink
        self._at = 0  # elements written
        self._crc = opening.crc
        self._put(opening.payload)

    def write(self, message: bytes) -> None:
        payload, self._crc = decode_frame(message, self._crc)
        self._put(payload)

    def _put(self, payload: memoryview) -> None:
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
