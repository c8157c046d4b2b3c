"""Frames: equal to the generated protobuf, and nothing damaged, missing or misplaced gets past the writer."""

import itertools
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
    HEADER_BYTES,
    PAYLOAD_BYTES,
    InPlace,
    PartWriter,
    all_finite,
    chunks_per_frame,
    decode_frame,
    decode_opening,
    encode_frame,
    frame_count,
    frames_of,
)
from legion.errors import PartInvalid
from legion.layout import CHUNK
from legion.proto.peer_pb2 import Frame, PartHeader

PLAIN = by_name("none")
PER_FRAME = chunks_per_frame(PLAIN) * CHUNK
CANARY = np.float32(-7.5)


def with_crc(payload: bytes, before: int = 0, header: bytes = b"") -> bytes:
    return encode_frame(payload, zlib.crc32(header + payload, before), header)


def values(numel: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(numel, dtype=np.float32)


def part(numel: int, codec: Codec = PLAIN) -> list[bytes]:
    return list(frames_of(PartHeader(step=5, unit=2, batches=(0, 3), tokens=17), codec, values(numel)))


def room(numel: int) -> tuple[Floats, Floats]:
    """Where a part goes, and all the memory around it: one chunk of canaries on each side."""
    memory = np.full(numel + 2 * CHUNK, CANARY, dtype=np.float32)
    return memory[CHUNK : CHUNK + numel], memory


def read(frames: list[bytes], codec: Codec, out: Floats) -> None:
    writer = PartWriter(decode_opening(frames[0]), codec, InPlace(out))
    for frame in frames[1:]:
        writer.write(frame)
    writer.finish()


HEADERS = st.builds(PartHeader, step=st.integers(1, 1 << 60), unit=st.integers(0, 1 << 20))


@given(st.binary(max_size=400), st.integers(0, (1 << 32) - 1), st.none() | HEADERS)
def test_a_frame_is_what_protobuf_would_write(payload: bytes, crc: int, header: PartHeader | None) -> None:
    message = encode_frame(payload, crc, header.SerializeToString() if header else b"")
    assert Frame.FromString(message) == Frame(crc=crc, payload=payload, header=header)
    if payload and crc:  # proto3 leaves out what is zero or empty; here both fields are always written
        assert message == Frame(crc=crc, payload=payload, header=header).SerializeToString()


@pytest.mark.parametrize("length", [1, 127, 128, 16_383, 16_384, PAYLOAD_BYTES - 1, PAYLOAD_BYTES])
def test_lengths_at_the_borders_of_their_encoding(length: int) -> None:
    payload = bytes(length - 1) + b"x"
    message = with_crc(payload)
    assert message == Frame(crc=zlib.crc32(payload), payload=payload).SerializeToString()
    found, crc = decode_frame(message, 0)
    assert (bytes(found), crc) == (payload, zlib.crc32(payload))


@given(st.binary(max_size=100))
def test_bytes_that_are_no_frame_are_refused(message: bytes) -> None:
    try:
        payload, _ = decode_frame(message, 0)
    except PartInvalid:
        return
    assert Frame.FromString(message).payload == payload


ENCODED = PartHeader(step=5, unit=2, numel=CHUNK, batches=(0, 3)).SerializeToString()


def refused(message: bytes) -> None:
    """As whatever the message is."""
    with pytest.raises(PartInvalid):
        decode_frame(message, 0)
    with pytest.raises(PartInvalid):
        decode_opening(message)


@given(st.binary(min_size=1, max_size=300), st.sampled_from([b"", ENCODED]), st.data())
def test_one_changed_bit_is_found(payload: bytes, header: bytes, data: st.DataObject) -> None:
    message = bytearray(with_crc(payload, header=header))
    message[data.draw(st.integers(0, len(message) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(bytes(message))


@given(st.binary(min_size=1, max_size=300), st.sampled_from([b"", ENCODED]), st.data())
def test_a_frame_cut_short_or_with_more_behind_it_is_refused(
    payload: bytes, header: bytes, data: st.DataObject
) -> None:
    message = with_crc(payload, header=header)
    refused(message[: data.draw(st.integers(0, len(message) - 1))])
    refused(message + data.draw(st.binary(min_size=1, max_size=20)))


def test_a_length_that_never_ends_is_refused() -> None:
    refused(b"\x15\0\0\0\0\x1a" + b"\xff" * 40)
    refused(b"\x0a" + b"\xff" * 40)


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
@pytest.mark.parametrize("chunks", [1, 2, 251, 252, 253, 600])
def test_a_part_arrives_as_its_codec_gives_it(codec: Codec, chunks: int) -> None:
    frames = part(chunks * CHUNK, codec)
    header = decode_opening(frames[0]).header
    assert (header.step, header.unit, tuple(header.batches), header.tokens) == (5, 2, (0, 3), 17)
    assert (header.codec, header.numel) == (codec.wire_id, chunks * CHUNK)
    assert header.size_bytes == encoded_bytes(codec, chunks * CHUNK)
    assert len(frames) == frame_count(codec, chunks * CHUNK)
    assert all(len(frame) <= PAYLOAD_BYTES + 64 for frame in frames)
    assert chunks_per_frame(codec) * CHUNK * 4 <= 4 * PAYLOAD_BYTES  # decoded
    out, memory = room(chunks * CHUNK)
    read(frames, codec, out)
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
    """A frame with more than all the room there is, its CRC right."""
    return [frames[0], with_crc(bytes(16 * PER_FRAME), _crc_of(frames[0]))]


def not_whole_chunks(frames: list[bytes]) -> list[bytes]:
    return [frames[0], with_crc(bytes(4 * CHUNK - 4), _crc_of(frames[0])), *frames[1:]]


def begun_twice(frames: list[bytes]) -> list[bytes]:
    return [frames[0], with_crc(bytes(4 * CHUNK), _crc_of(frames[0]), ENCODED), *frames[1:]]


def without_header(frames: list[bytes]) -> list[bytes]:
    return [with_crc(bytes(4 * CHUNK)), *frames[1:]]


def no_values_with_the_header(frames: list[bytes]) -> list[bytes]:
    header = Frame.FromString(frames[0]).header.SerializeToString()
    return [with_crc(b"", header=header), *frames]


def empty(frames: list[bytes]) -> list[bytes]:
    return [*frames[:1], with_crc(b"", _crc_of(frames[0])), *frames[1:]]


def _crc_of(frame: bytes) -> int:
    return int(Frame.FromString(frame).crc)


DAMAGES = (
    *(dropped, repeated, replaced, reordered, truncated),
    *(too_many, oversized, not_whole_chunks, empty),
    *(begun_twice, without_header, no_values_with_the_header),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_frames_that_are_not_the_part_are_refused(damage: Callable[[list[bytes]], list[bytes]]) -> None:
    """Three full frames and a shorter one; nothing outside the part's own memory changes."""
    numel = 3 * PER_FRAME + CHUNK
    frames = part(numel)
    out, memory = room(numel)
    with pytest.raises(PartInvalid):
        read(damage(frames), PLAIN, out)
    assert (memory[:CHUNK] == CANARY).all()
    assert (memory[-CHUNK:] == CANARY).all()


@pytest.mark.parametrize(
    "lie", [{"numel": CHUNK}, {"numel": 3 * CHUNK}, {"numel": 1 << 60}, {"size_bytes": 0}, {"size_bytes": 1 << 62}]
)
def test_a_header_of_another_size_is_refused_before_any_frame(lie: dict[str, int]) -> None:
    opening = decode_opening(part(2 * CHUNK)[0])
    for name, value in lie.items():
        setattr(opening.header, name, value)
    out, memory = room(2 * CHUNK)
    with pytest.raises(PartInvalid, match="where 8192 belong"):
        PartWriter(opening, PLAIN, InPlace(out))
    assert (memory == CANARY).all()


def test_headers_that_cannot_be_read() -> None:
    long = PartHeader(batches=range(5000)).SerializeToString()
    with pytest.raises(PartInvalid, match=f"a header of {len(long)} bytes is too long"):
        decode_opening(with_crc(b"x", header=long))
    with pytest.raises(PartInvalid, match="cannot be read"):
        decode_opening(with_crc(b"x", header=b"\x08"))
    assert len(long) > HEADER_BYTES


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
@given(cuts=st.lists(st.integers(0, 3 * CHUNK), max_size=4))
def test_a_vector_in_pieces_travels_as_one(codec: Codec, cuts: list[int]) -> None:
    whole = values(3 * CHUNK)
    pieces = [whole[a:b] for a, b in itertools.pairwise((0, *sorted(cuts), whole.size))]
    assert list(frames_of(PartHeader(), codec, *pieces)) == list(frames_of(PartHeader(), codec, whole))


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
            writer = PartWriter(decode_opening(next(frames)), codec, InPlace(out))
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
