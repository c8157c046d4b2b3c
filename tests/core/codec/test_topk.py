"""`topk` against a plain reader and a plain choice, and its size where it is meant to be used."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from legion.codec import rice
from legion.codec.api import Floats
from legion.codec.registry import SPARSE, any_by_name
from legion.codec.topk import GROUP, TopK
from legion.errors import PartInvalid
from legion.layout import CHUNK

every_sparse = pytest.mark.parametrize("codec", SPARSE, ids=lambda codec: codec.name)
GAP_BITS = {"topk256": 3, "topk64": 5, "topk240x4": 3}
TOPK256, TOPK64, UPDATE = (any_by_name(name) for name in ("topk256", "topk64", "topk240x4"))


def decoded(codec: TopK, data: bytes, numel: int) -> Floats:
    out = np.empty(numel, dtype=np.float32)
    codec.decode(memoryview(data), out)
    return out


def sparse_values(chunks: int, seed: int = 0) -> Floats:
    """Chunks that hold from no value to all of them."""
    rng = np.random.default_rng(seed)
    share = np.repeat(rng.choice([0, 0.002, 0.03, 0.2, 1], chunks), CHUNK)
    return (rng.standard_t(3, chunks * CHUNK) * (rng.random(chunks * CHUNK) < share)).astype(np.float32)


def bits_of(data: bytes) -> Iterator[int]:
    return (byte >> bit & 1 for byte in data for bit in range(8))


def plane(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    end = at + -(-count // 8)
    bits = list(bits_of(data[at:end]))
    assert not any(bits[count:])
    return bits[:count], end


def read_group(codec: TopK, data: bytes, chunks: int) -> Iterator[list[float]]:
    """One value after the other, by the documented layout alone."""
    size = 2 if codec.kept >= 256 else 1
    counts = [int.from_bytes(data[i * size : (i + 1) * size], "little") for i in range(chunks)]
    halves = np.frombuffer(data, dtype="<u2", count=2 * chunks, offset=chunks * size).astype(np.uint32)
    low, high = (halves << 16).view(np.float32).reshape(2, chunks)
    at, total, planes = chunks * (size + 4), sum(counts), []
    for _ in range(codec.value_bits + GAP_BITS[codec.name]):
        bits, at = plane(data, at, total)
        planes.append(bits)
    unary, value = bits_of(data[at:]), 0
    for chunk in range(chunks):
        found, position = [0.0] * CHUNK, -1
        for _ in range(counts[chunk]):
            sign, *index = (planes[i][value] for i in range(codec.value_bits))
            lower = sum(planes[codec.value_bits + i][value] << i for i in range(GAP_BITS[codec.name]))
            upper = next(zeros for zeros in range(CHUNK) if next(unary))
            position += (upper << GAP_BITS[codec.name]) + lower + 1
            level = sum(bit << i for i, bit in enumerate(index))
            square = np.float32(level**2) / np.float32((2 ** (codec.value_bits - 1) - 1) ** 2)
            found[position] = float(low[chunk] + (high[chunk] - low[chunk]) * square) * (-1 if sign else 1)
            value += 1
        yield found
    assert not any(unary)


@every_sparse
@pytest.mark.parametrize("chunks", [1, 3, GROUP + 2])
def test_a_plain_reader_finds_the_same(codec: TopK, chunks: int) -> None:
    values = sparse_values(chunks, chunks)
    data, found = codec.encode(values), []
    groups = -(-chunks // GROUP)
    at = 4 * groups
    for group, size in enumerate(np.frombuffer(data, dtype="<u4", count=groups)):
        found += list(read_group(codec, data[at : at + size], min(GROUP, chunks - group * GROUP)))
        at += int(size)
    assert at == len(data)
    assert np.array_equal(decoded(codec, data, values.size), np.array(found, dtype=np.float32).reshape(-1))


@every_sparse
def test_the_largest_are_kept_with_their_signs(codec: TopK) -> None:
    values = sparse_values(40)
    for chunk, found in zip(
        values.reshape(-1, CHUNK), decoded(codec, codec.encode(values), values.size).reshape(-1, CHUNK), strict=True
    ):
        order = np.argsort(-np.abs(chunk), kind="stable")[: codec.kept]
        kept = np.sort(order[chunk[order] != 0])
        assert np.array_equal(np.flatnonzero(found), kept)
        assert np.array_equal(found[kept] < 0, chunk[kept] < 0)


@every_sparse
def test_of_equal_magnitudes_the_first_are_kept(codec: TopK) -> None:
    values = np.tile(np.array([-0.5, 0.5], dtype=np.float32), CHUNK)
    values[CHUNK:] = np.where(np.arange(CHUNK) % 5 == 4, np.float32(3), values[CHUNK:])  # some above the tie
    plain, mixed = decoded(codec, codec.encode(values), values.size).reshape(2, CHUNK)
    assert np.array_equal(np.flatnonzero(plain), np.arange(codec.kept))
    assert np.array_equal(plain[: codec.kept], values[: codec.kept])
    order = np.argsort(-np.abs(values[CHUNK:]), kind="stable")[: codec.kept]
    assert np.array_equal(np.flatnonzero(mixed), np.sort(order))


@every_sparse
def test_what_is_zero_takes_no_bytes(codec: TopK) -> None:
    chunks = 10 * GROUP
    assert len(codec.encode(np.zeros(chunks * CHUNK, dtype=np.float32))) <= chunks * 6 + 4 * 10


def test_two_bits_send_the_means_of_small_and_large() -> None:
    values = np.zeros(CHUNK, dtype=np.float32)
    values[[1, 50, 99, 4000]] = (1, -1.5, 8, -8.5)
    found = decoded(TOPK64, TOPK64.encode(values), CHUNK)
    assert found[[1, 50, 99, 4000]].tolist() == [1.25, -1.25, 8.25, -8.25]


def test_four_bits_send_the_nearest_of_eight_from_the_smallest_to_the_largest() -> None:
    levels = 1 + 0.5 * np.arange(8) ** 2  # 1, 1.5, 3, 5.5, ... 25.5
    values = np.zeros(CHUNK, dtype=np.float32)
    values[:14] = [*levels, -1.24, -1.26, -2.24, -2.26, -4.2, -22]
    found = decoded(UPDATE, UPDATE.encode(values), CHUNK)
    assert np.allclose(found[:14], [*levels, -1, -1.5, -1.5, -3, -3, -19], rtol=1e-6)


DRAWS = {
    "normal": lambda rng, numel: rng.standard_normal(numel),
    "heavy tails": lambda rng, numel: rng.standard_t(3, numel),
    "rows of other scales": lambda rng, numel: (
        rng.standard_normal(numel) * np.repeat(np.exp(rng.standard_normal(numel // 256)), 256)
    ),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_bits_per_parameter_of_a_contribution(kind: str) -> None:
    values = DRAWS[kind](np.random.default_rng(0), 256 * CHUNK).astype(np.float32)
    assert len(TOPK64.encode(values)) * 8 / values.size <= 0.16
    assert len(TOPK256.encode(values)) * 8 / values.size <= 0.48


@pytest.mark.parametrize("common", [0.0, 0.5, 0.9])
def test_bits_per_parameter_of_an_update_of_twenty_senders(common: float) -> None:
    """What the senders' vectors have in common decides how many positions they send between them."""
    rng = np.random.default_rng(1)
    numel = 128 * CHUNK
    shared, total = rng.standard_normal(numel), np.zeros(numel, dtype=np.float32)
    for _ in range(20):
        own = (common * shared + (1 - common) * rng.standard_normal(numel)).astype(np.float32)
        total += decoded(TOPK64, TOPK64.encode(own), numel) / np.float32(20)
    data = UPDATE.encode(total)
    assert len(data) * 8 / numel <= 0.6
    kept = decoded(UPDATE, data, numel)
    lost = np.linalg.norm(np.where(kept != 0, total - kept, 0))
    assert lost <= 0.1 * np.linalg.norm(total)  # of what is kept; the rest waits in the reducer's residual


@pytest.mark.parametrize(("kept", "value_bits"), [(7, 2), (1025, 2), (64, 1), (64, 9)])
def test_what_cannot_be_written_is_refused(kept: int, value_bits: int) -> None:
    with pytest.raises(ValueError, match="topk cannot"):
        TopK("x", 250, kept=kept, value_bits=value_bits)


@settings(deadline=None, max_examples=30)
@given(st.integers(8, 1024), st.integers(2, 8), st.integers(0, 99))
def test_any_density_and_width_of_values(kept: int, value_bits: int, seed: int) -> None:
    codec, values = TopK("x", 250, kept=kept, value_bits=value_bits), sparse_values(2, seed)
    data = codec.encode(values)
    assert len(data) <= codec.most_bytes(values.size)
    order = np.argsort(-np.abs(values.reshape(2, CHUNK)), axis=1, kind="stable")[:, :kept]
    expected = np.zeros((2, CHUNK), dtype=bool)
    np.put_along_axis(expected, order, True, axis=1)
    found = decoded(codec, data, values.size).reshape(2, CHUNK)
    assert np.array_equal(found != 0, expected & (values.reshape(2, CHUNK) != 0))


gaps_lists = st.lists(st.integers(0, 4095), max_size=50)


@given(gaps_lists, st.integers(1, 8))
def test_gaps_come_back(listed: list[int], width: int) -> None:
    gaps: NDArray[np.int64] = np.array(listed, dtype=np.int64)
    lower, unary = rice.encode_gaps(gaps, width)
    assert lower.size == rice.planes_bytes(gaps.size, width)
    assert unary.size == -(-sum((gap >> width) + 1 for gap in listed) // 8)
    assert rice.decode_gaps(lower, unary, gaps.size, width).tolist() == listed


@given(gaps_lists, st.integers(1, 8), st.integers(-3, 3).filter(bool))
def test_another_number_of_gaps_is_refused(listed: list[int], width: int, more: int) -> None:
    lower, unary = rice.encode_gaps(np.array(listed, dtype=np.int64), width)
    count = max(0, len(listed) + more)
    if count != len(listed):
        with pytest.raises(PartInvalid):
            rice.decode_gaps(np.zeros(rice.planes_bytes(count, width), dtype=np.uint8), unary, count, width)
    with pytest.raises(PartInvalid):
        rice.decode_gaps(lower, np.append(unary, np.uint8(0)), len(listed), width)


@pytest.mark.parametrize("kept", [8, 16, 64, 240, 256, 700, 1024])
def test_the_width_is_the_best_for_positions_at_random(kept: int) -> None:
    rng = np.random.default_rng(0)
    gaps = np.concatenate([np.diff(np.sort(rng.choice(CHUNK, kept, replace=False)), prepend=-1) - 1 for _ in range(20)])
    bits = [gaps.size * (width + 1) + int((gaps >> width).sum()) for width in range(10)]
    assert bits[rice.best_width(kept, CHUNK)] <= 1.005 * min(bits)
