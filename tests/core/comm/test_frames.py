"""Frames: equal to the generated protobuf, and nothing damaged, missing or misplaced gets past the writer."""

import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.codec.api import Codec, Floats, encoded_bytes
from legion.codec.registry import ALL, by_name
from legion.comm.frames import (
    PAYLOAD_BYTES,
    InPlace,
    PartWriter,
    all_finite,
    chunks_per_frame,
    decode_frame,
    decode_header,
    encode_frame,
    frames_of,
)
from legion.errors import PartInvalid
from legion.layout import CHUNK
from legion.proto.peer_pb2 import Frame, PartHeader

PLAIN = by_name("none")
PER_FRAME = chunks_per_frame(PLAIN) * CHUNK
CANARY = np.float32(-7.5)


def with_crc(payload: bytes, before: int = 0) -> bytes:
    return encode_frame(payload, zlib.crc32(payload, before))


def values(numel: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(numel, dtype=np.float32)


def part(numel: int, codec: Codec = PLAIN) -> tuple[PartHeader, list[bytes]]:
    """The header as a receiver reads it, and the frames that follow."""
    first, *rest = frames_of(PartHeader(step=5, unit=2, batches=(0, 3), tokens=17), codec, values(numel))
    return decode_header(first), rest


def room(numel: int) -> tuple[Floats, Floats]:
    """Where a part goes, and all the memory around it: one chunk of canaries on each side."""
    memory = np.full(numel + 2 * CHUNK, CANARY, dtype=np.float32)
    return memory[CHUNK : CHUNK + numel], memory


def read(header: PartHeader, frames: list[bytes], codec: Codec, out: Floats) -> None:
    writer = PartWriter(header, codec, InPlace(out))
    for frame in frames:
        writer.write(frame)
    writer.finish()


@given(st.binary(max_size=400), st.integers(0, (1 << 32) - 1))
def test_a_frame_is_what_protobuf_would_write(payload: bytes, crc: int) -> None:
    message = encode_frame(payload, crc)
    assert Frame.FromString(message) == Frame(crc=crc, payload=payload)
    if payload and crc:  # proto3 leaves out what is zero or empty; here both fields are always written
        assert message == Frame(crc=crc, payload=payload).SerializeToString()


@pytest.mark.parametrize("length", [1, 127, 128, 16_383, 16_384, PAYLOAD_BYTES - 1, PAYLOAD_BYTES])
def test_lengths_at_the_borders_of_their_encoding(length: int) -> None:
    payload = bytes(length - 1) + b"x"
    message = with_crc(payload)
    assert message == Frame(crc=zlib.crc32(payload), payload=payload).SerializeToString()
    found, crc = decode_frame(message)
    assert (bytes(found), crc) == (payload, zlib.crc32(payload))


@given(st.binary(max_size=100))
def test_bytes_that_are_no_frame_are_refused(message: bytes) -> None:
    try:
        payload, _ = decode_frame(message)
    except PartInvalid:
        return
    assert Frame.FromString(message).payload == payload


@given(st.binary(min_size=1, max_size=300), st.data())
def test_one_changed_bit_is_found(payload: bytes, data: st.DataObject) -> None:
    message = bytearray(with_crc(payload))
    message[data.draw(st.integers(0, len(message) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(PartInvalid):
        decode_frame(bytes(message))


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_frame_cut_short_or_with_more_behind_it_is_refused(payload: bytes, data: st.DataObject) -> None:
    message = with_crc(payload)
    with pytest.raises(PartInvalid):
        decode_frame(message[: data.draw(st.integers(0, len(message) - 1))])
    with pytest.raises(PartInvalid):
        decode_frame(message + data.draw(st.binary(min_size=1, max_size=20)))


def test_a_length_that_never_ends_is_refused() -> None:
    with pytest.raises(PartInvalid, match="length is damaged"):
        decode_frame(b"\x0d\0\0\0\0\x12" + b"\xff" * 40)


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
@pytest.mark.parametrize("chunks", [1, 2, 251, 252, 253, 600])
def test_a_part_arrives_as_its_codec_gives_it(codec: Codec, chunks: int) -> None:
    header, frames = part(chunks * CHUNK, codec)
    assert (header.step, header.unit, tuple(header.batches), header.tokens) == (5, 2, (0, 3), 17)
    assert (header.codec, header.numel) == (codec.wire_id, chunks * CHUNK)
    assert header.size_bytes == encoded_bytes(codec, chunks * CHUNK)
    assert all(len(frame) <= PAYLOAD_BYTES + 64 for frame in frames)
    out, memory = room(chunks * CHUNK)
    read(header, frames, codec, out)
    expected = np.empty_like(out)
    codec.decode(memoryview(codec.encode(values(chunks * CHUNK))), expected)
    assert np.array_equal(out, expected)
    assert (memory[:CHUNK] == CANARY).all()
    assert (memory[-CHUNK:] == CANARY).all()


def dropped(frames: list[bytes]) -> list[bytes]:
    return [frames[0], *frames[2:]]


def repeated(frames: list[bytes]) -> list[bytes]:
    return [frames[0], frames[0], *frames[1:]]


def replaced(frames: list[bytes]) -> list[bytes]:
    return [frames[0], frames[0], *frames[2:]]


def reordered(frames: list[bytes]) -> list[bytes]:
    return [frames[1], frames[0], *frames[2:]]


def truncated(frames: list[bytes]) -> list[bytes]:
    return frames[:-1]


def too_many(frames: list[bytes]) -> list[bytes]:
    return [*frames, with_crc(bytes(4 * CHUNK), _crc_of(frames[-1]))]


def oversized(frames: list[bytes]) -> list[bytes]:
    """One frame with more than all the room there is, its CRC right."""
    return [with_crc(bytes(16 * PER_FRAME))]


def not_whole_chunks(frames: list[bytes]) -> list[bytes]:
    return [with_crc(bytes(4 * CHUNK - 4)), *frames]


def empty(frames: list[bytes]) -> list[bytes]:
    return [*frames[:1], with_crc(b"", _crc_of(frames[0])), *frames[1:]]


def _crc_of(frame: bytes) -> int:
    return int(Frame.FromString(frame).crc)


DAMAGES = (
    *(dropped, repeated, replaced, reordered, truncated),
    *(too_many, oversized, not_whole_chunks, empty),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_frames_that_are_not_the_part_are_refused(damage: Callable[[list[bytes]], list[bytes]]) -> None:
    """Three full frames and a shorter one; nothing outside the part's own memory changes."""
    numel = 3 * PER_FRAME + CHUNK
    header, frames = part(numel)
    out, memory = room(numel)
    with pytest.raises(PartInvalid):
        read(header, damage(frames), PLAIN, out)
    assert (memory[:CHUNK] == CANARY).all()
    assert (memory[-CHUNK:] == CANARY).all()


@pytest.mark.parametrize(
    "lie", [{"numel": CHUNK}, {"numel": 3 * CHUNK}, {"numel": 1 << 60}, {"size_bytes": 0}, {"size_bytes": 1 << 62}]
)
def test_a_header_of_another_size_is_refused_before_any_frame(lie: dict[str, int]) -> None:
    header, _ = part(2 * CHUNK)
    for name, value in lie.items():
        setattr(header, name, value)
    with pytest.raises(PartInvalid, match="where 8192 belong"):
        PartWriter(header, PLAIN, InPlace(np.empty(2 * CHUNK, dtype=np.float32)))


def test_headers_that_cannot_be_read() -> None:
    with pytest.raises(PartInvalid, match="too long"):
        decode_header(with_crc(PartHeader(batches=range(5000)).SerializeToString()))
    with pytest.raises(PartInvalid, match="cannot be read"):
        decode_header(with_crc(b"\x08"))


def test_sending_holds_one_frame_at_a_time() -> None:
    """48 MB pass through a few MB."""
    everything = np.ones(12 << 20, dtype=np.float32)
    out = np.empty_like(everything)
    tracemalloc.start()
    try:
        for codec in ALL:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            frames = frames_of(PartHeader(), codec, everything)
            writer = PartWriter(decode_header(next(frames)), codec, InPlace(out))
            for frame in frames:
                writer.write(frame)
            writer.finish()
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("at", [0, 4095, 8191])
def test_one_value_that_is_not_finite_is_seen(bad: float, at: int) -> None:
    array = values(2 * CHUNK)
    assert all_finite(array)
    array[at] = bad
    assert not all_finite(array)
