"""Whatever the bytes: PartInvalid, or finite values. Never another error, never memory beyond what the values take."""

import contextlib
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion.codec.api import AnyCodec
from legion.codec.registry import ALL, SPARSE
from legion.codec.topk import GROUP, TopK
from legion.errors import PartInvalid
from legion.layout import CHUNK

LOSSY = [codec for codec in (*ALL, *SPARSE) if codec.lossy]  # what is not lossy gives back NaN as it came
every_lossy = pytest.mark.parametrize("codec", LOSSY, ids=lambda codec: codec.name)
every_sparse = pytest.mark.parametrize("codec", SPARSE, ids=lambda codec: codec.name)
MOST_SCRATCH_BYTES = 6 << 20  # of a decoder, however many elements there are


def is_refused(codec: AnyCodec, data: bytes | bytearray, numel: int) -> bool:
    """True for PartInvalid; otherwise all values are there and finite."""
    out = np.full(numel, np.nan, dtype=np.float32)
    try:
        codec.decode(memoryview(data), out)
    except PartInvalid:
        return True
    assert np.isfinite(out).all()
    return False


def valid(codec: AnyCodec, chunks: int, seed: int = 0) -> bytearray:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(chunks * CHUNK) * (rng.random(chunks * CHUNK) < rng.random())
    return bytearray(codec.encode(values.astype(np.float32)))


@every_lossy
@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 3))
def test_bytes_of_any_length(codec: AnyCodec, data: bytes, chunks: int) -> None:
    is_refused(codec, data, chunks * CHUNK)


@every_lossy
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 3), st.floats(0.0, 1.0))
def test_random_bytes_of_a_length_that_may_be(codec: AnyCodec, seed: int, chunks: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    size = codec.most_bytes(chunks * CHUNK)
    is_refused(codec, rng.bytes(size), chunks * CHUNK)
    is_refused(codec, rng.bytes(int(size * share)), chunks * CHUNK)


@every_lossy
@settings(max_examples=80, deadline=None)
@given(st.integers(0, 99), st.integers(1, 2), st.data())
def test_valid_bytes_with_a_few_changed(codec: AnyCodec, seed: int, chunks: int, data: st.DataObject) -> None:
    encoded = valid(codec, chunks, seed)
    head = st.integers(0, min(200, len(encoded) - 1))
    for at in data.draw(st.lists(head | st.integers(0, len(encoded) - 1), max_size=6)):
        encoded[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    is_refused(codec, encoded, chunks * CHUNK)


@every_lossy
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.data())
def test_valid_bytes_cut_short_or_with_more_behind_them(codec: AnyCodec, seed: int, data: st.DataObject) -> None:
    encoded = valid(codec, 2, seed)
    assert not is_refused(codec, encoded, 2 * CHUNK)
    assert is_refused(codec, encoded[: data.draw(st.integers(0, len(encoded) - 1))], 2 * CHUNK)
    assert is_refused(codec, encoded + data.draw(st.binary(min_size=1, max_size=300)), 2 * CHUNK)


@every_lossy
@pytest.mark.parametrize("chunks", [1, 3])
def test_valid_bytes_are_not_those_of_another_number_of_chunks(codec: AnyCodec, chunks: int) -> None:
    assert is_refused(codec, valid(codec, 2), chunks * CHUNK)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak_of(codec: AnyCodec, data: bytes | bytearray, numel: int) -> int:
    """Bytes that decoding takes beside what is decoded."""
    out = np.empty(numel, dtype=np.float32)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    with contextlib.suppress(PartInvalid):
        codec.decode(memoryview(data), out)
    return tracemalloc.get_traced_memory()[1] - before


@every_lossy
@pytest.mark.parametrize("chunks", [1, GROUP, 10 * GROUP])
@pytest.mark.usefixtures("traced")
def test_decoding_takes_a_few_megabytes_whatever_the_bytes(codec: AnyCodec, chunks: int) -> None:
    rng = np.random.default_rng(0)
    most = codec.most_bytes(chunks * CHUNK)
    for data in (valid(codec, chunks), rng.bytes(most), b"\xff" * most, bytes(most), rng.bytes(3 * most)):
        assert peak_of(codec, data, chunks * CHUNK) < MOST_SCRATCH_BYTES


@every_sparse
@pytest.mark.usefixtures("traced")
def test_announcing_more_than_there_is_takes_no_memory(codec: TopK) -> None:
    encoded = valid(codec, 2)
    for head in (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", (len(encoded) - 3).to_bytes(4, "little")):
        encoded[:4] = head
        assert is_refused(codec, encoded, 2 * CHUNK)
        assert peak_of(codec, encoded, 2 * CHUNK) < 1 << 20


class Fields:
    """Where the fields of a single group of `topk` begin, by its documented layout."""

    def __init__(self, codec: TopK, chunks: int, values: int) -> None:
        self.counts = 4
        self.levels = self.counts + chunks * (2 if codec.kept >= 256 else 1)
        self.values = self.levels + chunks * 4
        self.lower = self.values + -(-values // 8) * codec.value_bits


def full(codec: TopK, chunks: int) -> bytearray:
    """Every chunk holds as many as it may."""
    return bytearray(codec.encode(np.random.default_rng(0).standard_normal(chunks * CHUNK).astype(np.float32)))


def with_three(codec: TopK) -> bytearray:
    values = np.zeros(CHUNK, dtype=np.float32)
    values[[5, 70, CHUNK - 1]] = (1, -2, 3)
    return bytearray(codec.encode(values))


@every_sparse
def test_a_position_behind_its_chunk_is_refused(codec: TopK) -> None:
    encoded = with_three(codec)
    encoded[Fields(codec, 1, 3).lower] ^= 1 << 2  # the third gap is one longer
    with pytest.raises(PartInvalid, match="behind the end"):
        codec.decode(memoryview(encoded), np.empty(CHUNK, dtype=np.float32))


@every_sparse
def test_padding_that_is_not_zero_is_refused(codec: TopK) -> None:
    encoded = with_three(codec)
    assert not is_refused(codec, encoded, CHUNK)
    for at in range(Fields(codec, 1, 3).values, len(encoded)):  # three values: five bits of padding in every plane
        changed = bytearray(encoded)
        changed[at] |= 0x80
        assert is_refused(codec, changed, CHUNK)


@every_sparse
def test_levels_and_counts_out_of_bounds_are_refused(codec: TopK) -> None:
    encoded, fields = full(codec, 1), Fields(codec, 1, codec.kept)
    for level in (b"\x80\x7f", b"\xc0\x7f", b"\x00\x80", b"\x80\xff"):  # infinity, NaN, -0, -infinity
        for at in (fields.levels, fields.levels + 2):
            changed = bytearray(encoded)
            changed[at : at + 2] = level
            assert is_refused(codec, changed, CHUNK)
    swapped = bytearray(encoded)
    swapped[fields.levels : fields.values] = encoded[fields.levels + 2 : fields.values] + encoded[fields.levels :][:2]
    with pytest.raises(PartInvalid, match="above the upper"):
        codec.decode(memoryview(swapped), np.empty(CHUNK, dtype=np.float32))
    for count in (codec.kept + 1, codec.kept - 1, 0):
        changed = bytearray(encoded)
        changed[fields.counts : fields.levels] = count.to_bytes(fields.levels - fields.counts, "little")
        assert is_refused(codec, changed, CHUNK)


@every_sparse
def test_more_values_in_a_chunk_than_are_kept_are_refused(codec: TopK) -> None:
    """Also where the group as a whole does not have too many."""
    richer = TopK("richer", 250, kept=codec.kept + 8, value_bits=codec.value_bits)
    values = np.zeros(2 * CHUNK, dtype=np.float32)
    values[: codec.kept] = 1
    assert not is_refused(codec, bytearray(richer.encode(values)), values.size)
    values[codec.kept] = 1
    with pytest.raises(PartInvalid, match="announces"):
        codec.decode(memoryview(richer.encode(values)), np.empty_like(values))


@every_sparse
def test_values_that_are_announced_and_not_there_are_refused(codec: TopK) -> None:
    encoded, fields = bytearray(codec.encode(np.zeros(CHUNK, dtype=np.float32))), Fields(codec, 1, 0)
    for count in range(1, codec.kept + 1):
        encoded[fields.counts : fields.levels] = count.to_bytes(fields.levels - fields.counts, "little")
        with pytest.raises(PartInvalid):
            codec.decode(memoryview(encoded), np.empty(CHUNK, dtype=np.float32))


@every_sparse
@pytest.mark.usefixtures("traced")
def test_a_group_with_the_bytes_of_all_others_takes_no_memory(codec: TopK) -> None:
    groups = 100
    numel = groups * GROUP * CHUNK
    size = codec.most_bytes(numel) - 4 * groups
    table = np.array([size] + [0] * (groups - 1), dtype="<u4").tobytes()
    for filling in (b"\0", b"\1"):
        encoded = table + filling * size
        with pytest.raises(PartInvalid, match=f"bytes for {GROUP} chunks"):
            codec.decode(memoryview(encoded), np.empty(numel, dtype=np.float32))
        assert peak_of(codec, encoded, numel) < MOST_SCRATCH_BYTES
