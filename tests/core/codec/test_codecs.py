"""One contract over every codec: whole chunks, sizes within the bound, bounded error, chunks that do not mix."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from legion.codec.api import AnyCodec, Codec, Floats, bits_per_value, encoded_bytes
from legion.codec.int4 import LARGEST_SCALE as INT4_SCALE
from legion.codec.int8 import LARGEST_SCALE as INT8_SCALE
from legion.codec.registry import ALL, SPARSE, any_by_name, any_by_wire_id, by_name, by_wire_id
from legion.codec.topk import GROUP, TopK
from legion.errors import NotFinite, PartInvalid, Unusable
from legion.layout import CHUNK

EVERY: tuple[AnyCodec, ...] = (*ALL, *SPARSE)
LOSSY = [codec for codec in EVERY if codec.lossy]
LARGEST = float(np.finfo(np.float32).max)
NEGLIGIBLE = 2.0**-120  # what is smaller may be sent as zero

every_codec = pytest.mark.parametrize("codec", EVERY, ids=lambda codec: codec.name)
every_lossy = pytest.mark.parametrize("codec", LOSSY, ids=lambda codec: codec.name)
every_fixed = pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)


def normal(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.standard_normal(CHUNK)


def one_huge(rng: np.random.Generator) -> NDArray[np.float64]:
    values = normal(rng) * 1e-6
    values[rng.integers(CHUNK)] = 1e30
    return values


def few(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.where(rng.random(CHUNK) < 0.01, normal(rng), 0.0)


def equal(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.choice([-0.1, 0.1], CHUNK)


def all_but_equal(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.choice([-0.1, 0.1], CHUNK) * (1 + rng.choice([0, 1e-7], CHUNK))


def ties(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.integers(-3, 4, CHUNK).astype(np.float64)


CHUNKS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "zeros": lambda _: np.zeros(CHUNK),
    "negative zeros": lambda _: np.full(CHUNK, -0.0),
    "denormal": lambda rng: normal(rng) * 1e-42,
    "around negligible": lambda rng: normal(rng) * NEGLIGIBLE,
    "one huge": one_huge,
    "largest": lambda rng: rng.choice([-LARGEST, LARGEST], CHUNK),
    "near the largest": lambda rng: rng.uniform(-1, 1, CHUNK) * LARGEST,
    "equal": equal,
    "all but equal": all_but_equal,
    "ties": ties,
    "few": few,
    "heavy tails": lambda rng: rng.standard_t(2, CHUNK),
    "many scales": lambda rng: normal(rng) * np.exp(rng.uniform(-60, 60, CHUNK)),
    "small": lambda rng: normal(rng) * 1e-6,
    "large": lambda rng: normal(rng) * 1e30,
    "normal": normal,
}
kinds = st.lists(st.sampled_from(list(CHUNKS)), max_size=3)


def values_of(names: list[str], seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return np.concatenate([np.empty(0), *(CHUNKS[name](rng) for name in names)]).astype(np.float32)


def some_values(chunks: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(chunks * CHUNK) * np.repeat(10.0 ** rng.integers(-4, 4, chunks), CHUNK)).astype("f4")


def decoded(codec: AnyCodec, data: bytes | memoryview, numel: int) -> Floats:
    out = np.full(numel, np.nan, dtype=np.float32)
    codec.decode(memoryview(data), out)
    return out


def sendable(codec: AnyCodec, values: Floats) -> Floats:
    """bf16 has no number for the last half step below infinity: refusing it is right."""
    most = np.float32(3.38e38 if codec.name == "bf16" else LARGEST)
    return np.clip(values, -most, most)


def blocks_of(codec: AnyCodec) -> int:
    return {"int8": 256, "int4": 64, "int2": 256, "onebit": 256}[codec.name]


def most_error(codec: AnyCodec, values: Floats) -> NDArray[np.float64]:
    """The largest error of every element that the codec's docstring allows."""
    magnitudes = np.abs(values.astype(np.float64))
    if codec.name == "none":
        return np.zeros_like(magnitudes)
    if codec.name == "bf16":
        return magnitudes * 2.0**-8 + 2.0**-133
    if isinstance(codec, TopK):
        chunks = [_most_error_of_chunk(codec, chunk) for chunk in magnitudes.reshape(-1, CHUNK)]
        return np.concatenate([np.empty(0), *chunks])
    rows = magnitudes.reshape(-1, blocks_of(codec))
    largest, mean = rows.max(axis=1, keepdims=True), rows.mean(axis=1, keepdims=True)
    allowed = {
        "int8": np.maximum(largest / 254 * (1 + 1e-5), 127 * NEGLIGIBLE),
        "int4": np.maximum(largest / 14 * (1 + 1 / 127), 7 * NEGLIGIBLE),
        "int2": largest * (1 + 2**-8) + NEGLIGIBLE,
        "onebit": np.abs(rows - mean) + mean * 2**-8 + NEGLIGIBLE,
    }[codec.name]
    return np.broadcast_to(allowed, rows.shape).reshape(-1)


def _most_error_of_chunk(codec: TopK, magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is dropped is not larger than what is kept; what is kept stays between the smallest and the largest."""
    first = np.argsort(-magnitudes, kind="stable")[: codec.kept]
    kept = first[magnitudes[first] >= NEGLIGIBLE]
    allowed = magnitudes.copy()
    if kept.size:
        low, high = magnitudes[kept[-1]], magnitudes[kept[0]]
        last = 2 ** (codec.value_bits - 1) - 1
        between = (high - low) / (1 if codec.value_bits == 2 else 2 * last**2 / (2 * last - 1))
        allowed[kept] = between + high * 2**-7
    return allowed


@every_codec
@settings(max_examples=40, deadline=None)
@example(["zeros"], 0)
@example(list(CHUNKS), 1)
@given(kinds, st.integers(0, 999))
def test_the_error_and_the_size_are_within_their_bounds(codec: AnyCodec, names: list[str], seed: int) -> None:
    values = sendable(codec, values_of(names, seed))
    data = codec.encode(values)
    assert len(data) <= codec.most_bytes(values.size)
    error = np.abs(decoded(codec, data, values.size).astype(np.float64) - values)
    assert (error <= most_error(codec, values)).all()


@every_codec
@settings(max_examples=25, deadline=None)
@example(list(CHUNKS), 1)
@given(kinds, st.integers(0, 999))
def test_what_is_lost_is_less_than_what_was_there(codec: AnyCodec, names: list[str], seed: int) -> None:
    """Without that, error feedback would grow."""
    values = sendable(codec, values_of(names, seed))
    exact = values.astype(np.float64).reshape(-1, CHUNK)
    lost = exact - decoded(codec, codec.encode(values), values.size).reshape(-1, CHUNK)
    norm = np.linalg.norm(exact, axis=1)
    assert (np.linalg.norm(lost, axis=1) <= norm * (1 - 1e-3 * (norm > 1e4 * NEGLIGIBLE))).all()


@every_codec
@pytest.mark.parametrize("chunks", [0, 1, 2, 3, 31, 32, 33, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP + 1])
def test_chunks_do_not_mix(codec: AnyCodec, chunks: int) -> None:
    values = some_values(chunks)
    alone = [decoded(codec, codec.encode(chunk), CHUNK) for chunk in values.reshape(-1, CHUNK)]
    together = decoded(codec, codec.encode(values), values.size)
    assert np.array_equal(together, np.concatenate([np.empty(0, dtype=np.float32), *alone]))


@every_fixed
def test_chunks_of_fixed_rate_stand_alone(codec: Codec) -> None:
    values = some_values(3)
    pieces = b"".join(bytes(codec.encode(values[i * CHUNK : (i + 1) * CHUNK])) for i in range(3))
    assert pieces == bytes(codec.encode(values))
    assert len(pieces) == encoded_bytes(codec, values.size) == codec.most_bytes(values.size)


@every_codec
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2 * GROUP + 1), st.data())
def test_a_range_is_decoded_as_the_whole_is(codec: AnyCodec, chunks: int, data: st.DataObject) -> None:
    values = some_values(chunks)
    start = data.draw(st.integers(0, chunks)) * CHUNK
    out = np.full(data.draw(st.integers(0, chunks - start // CHUNK)) * CHUNK, np.nan, dtype=np.float32)
    encoded = memoryview(codec.encode(values))
    codec.decode_range(encoded, values.size, start, out)
    assert np.array_equal(out, decoded(codec, encoded, values.size)[start : start + out.size])


@every_codec
def test_encoding_again_gives_the_same_bytes_and_changes_nothing(codec: AnyCodec) -> None:
    values = some_values(GROUP + 1)
    before = values.copy()
    assert bytes(codec.encode(values)) == bytes(codec.encode(values.copy()))
    assert np.array_equal(values, before)


@every_codec
def test_bytes_may_lie_anywhere_in_memory(codec: AnyCodec) -> None:
    values = some_values(2)
    data = bytes(codec.encode(values))
    assert np.array_equal(decoded(codec, memoryview(b"x" + data)[1:], values.size), decoded(codec, data, values.size))


@every_codec
@pytest.mark.parametrize("extra", [-1, 1, CHUNK])
def test_any_other_length_is_refused(codec: AnyCodec, extra: int) -> None:
    data = bytes(codec.encode(some_values(2)))
    wrong = data[:extra] if extra < 0 else data + bytes(extra)
    with pytest.raises(PartInvalid):
        decoded(codec, wrong, 2 * CHUNK)
    with pytest.raises(PartInvalid):
        codec.decode_range(memoryview(wrong), 2 * CHUNK, CHUNK, np.empty(CHUNK, dtype=np.float32))


@every_codec
@pytest.mark.parametrize("numel", [1, CHUNK - 1, CHUNK + 1])
def test_parts_of_chunks_are_a_mistake_of_the_caller(codec: AnyCodec, numel: int) -> None:
    with pytest.raises(ValueError, match="whole chunks"):
        codec.encode(np.zeros(numel, dtype=np.float32))
    with pytest.raises(ValueError, match="whole chunks"):
        codec.decode(memoryview(bytes(codec.encode(np.zeros(CHUNK, dtype=np.float32)))), np.empty(numel, np.float32))


@every_codec
@pytest.mark.parametrize("out", [np.empty(2 * CHUNK, dtype=np.float32)[::2], np.empty(CHUNK, dtype=np.float64)])
def test_room_that_would_be_written_in_vain_is_refused(codec: AnyCodec, out: Floats) -> None:
    with pytest.raises(ValueError, match="contiguous float32"):
        codec.decode(memoryview(codec.encode(some_values(1))), out)


@every_lossy
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 4095, (GROUP + 1) * CHUNK - 1])
def test_lossy_codecs_refuse_what_is_not_finite(codec: AnyCodec, bad: float, at: int) -> None:
    values = some_values(GROUP + 1)
    values[at] = bad
    with pytest.raises(NotFinite):
        codec.encode(values)


@every_codec
def test_zeros_stay_zeros(codec: AnyCodec) -> None:
    assert not decoded(codec, codec.encode(np.zeros(CHUNK, dtype=np.float32)), CHUNK).any()


@pytest.mark.parametrize("codec", [codec for codec in LOSSY if codec.name != "bf16"], ids=lambda codec: codec.name)
def test_what_is_negligible_is_sent_as_zero(codec: AnyCodec) -> None:
    """Nobody has to calculate with denormal numbers, of which processors think differently."""
    values = (normal(np.random.default_rng(0)) * NEGLIGIBLE / 8).astype(np.float32)
    assert not decoded(codec, codec.encode(values), CHUNK).any()


@pytest.mark.parametrize(("codec", "scale"), [("int8", INT8_SCALE), ("int4", INT4_SCALE)])
def test_a_number_beyond_the_largest_scale_is_refused(codec: str, scale: np.float32) -> None:
    """The encoder writes 127 and 7 of them at most; -128 and -8 would be infinite."""
    values = np.full(CHUNK, LARGEST, dtype=np.float32)
    data = bytearray(by_name(codec).encode(values))
    assert decoded(by_name(codec), data, CHUNK).max() == (127 if codec == "int8" else 7) * scale
    data[-1] = 0x80 if codec == "int8" else 0x00
    with pytest.raises(PartInvalid, match="infinite"):
        decoded(by_name(codec), data, CHUNK)


def test_the_protocol_describes_every_codec() -> None:
    page = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
    cells = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\| `\w+` \| \d+ \|", line)]
    assert [(name.strip("`"), int(wire_id)) for name, wire_id, *_ in cells] == [(c.name, c.wire_id) for c in EVERY]
    for codec, (_, _, chunk_bytes, *_) in zip(ALL, cells, strict=False):
        assert int(chunk_bytes.replace(",", "")) == codec.chunk_bytes
    for codec, (_, _, kept, _, bits) in zip(SPARSE, cells[len(ALL) :], strict=True):
        assert isinstance(codec, TopK)
        assert int(kept.split()[0]) == codec.kept
        typical = len(codec.encode(some_values(256))) * 8 / (256 * CHUNK)
        assert bits == f"{typical:.3f}, {bits_per_value(codec):.3f}"


BITS = {"none": 32, "bf16": 16, "int8": 8.125, "int4": 4.25, "int2": 2.125, "onebit": 1.0625}


@every_fixed
def test_bits_of_a_value(codec: Codec) -> None:
    assert bits_per_value(codec) == BITS[codec.name]


def test_bf16_rounds_as_torch_does() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 64 * CHUNK, dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.where(np.abs(values) < 3e38, values, np.float32(1.5))
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    codec = by_name("bf16")
    assert np.array_equal(decoded(codec, codec.encode(values), values.size), expected)


def test_int8_bytes_are_what_they_always_were() -> None:
    values = values_of(["small", "zeros", "ties", "normal", "heavy tails", "large"], 3)
    expected = []
    for chunk in values.reshape(-1, 16, 256):
        scale = np.abs(chunk).max(axis=1) / np.float32(127)
        steps = np.rint(chunk / np.where(scale == 0, np.float32(1), scale)[:, None])
        expected += [scale.astype("<f4").tobytes(), steps.astype(np.int8).tobytes()]
    assert bytes(by_name("int8").encode(values)) == b"".join(expected)


def test_int4_against_one_block_at_a_time() -> None:
    values = values_of(["small", "ties", "normal", "heavy tails", "large"], 3)
    found = decoded(by_name("int4"), by_name("int4").encode(values), values.size)
    for block, got in zip(values.reshape(-1, 64), found.reshape(-1, 64), strict=True):
        largest = np.abs(block).max() / np.float32(7)
        scale = torch.tensor(float(largest)).to(torch.bfloat16).float().item()
        while scale < largest:
            scale = torch.nextafter(torch.tensor(scale).bfloat16(), torch.tensor(np.inf).bfloat16()).float().item()
        assert np.array_equal(got, np.rint(block / np.float32(scale)) * np.float32(scale))


def test_onebit_sends_the_mean_magnitude() -> None:
    values = values_of(["small", "normal", "heavy tails", "large"], 3)
    found = decoded(by_name("onebit"), by_name("onebit").encode(values), values.size).reshape(-1, 256)
    mean = np.abs(values.reshape(-1, 256).astype(np.float64)).mean(axis=1)
    assert np.allclose(np.abs(found), mean[:, None], rtol=2.0**-8, atol=0)
    assert np.array_equal(found < 0, values.reshape(-1, 256) < 0)


def least_squares(magnitudes: NDArray[np.float64]) -> float:
    """What is lost with the two best magnitudes: every border tried."""
    ranked = np.sort(magnitudes)
    counts = np.arange(1, ranked.size)
    below, squares = np.cumsum(ranked)[:-1], np.square(ranked).sum()
    return float((squares - below**2 / counts - (ranked.sum() - below) ** 2 / (ranked.size - counts)).min())


DRAWS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "normal": lambda rng: rng.standard_normal(8 * CHUNK),
    "laplace": lambda rng: rng.laplace(size=8 * CHUNK),
    "heavy tails": lambda rng: rng.standard_t(5, 8 * CHUNK),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_int2_is_nearly_as_good_as_two_magnitudes_can_be(kind: str) -> None:
    values = DRAWS[kind](np.random.default_rng(0)).astype(np.float32)
    found = decoded(by_name("int2"), by_name("int2").encode(values), values.size)
    lost = np.square(found.astype(np.float64) - values).sum()
    assert lost <= 1.05 * sum(least_squares(np.abs(block.astype(np.float64))) for block in values.reshape(-1, 256))


@pytest.mark.parametrize("codec", ["int8", "int4", "int2", "onebit"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0])
def test_a_scale_that_is_no_size_is_refused(codec: str, bad: float) -> None:
    data = bytearray(by_name(codec).encode(some_values(1)))
    scale = np.array([bad], dtype="<f4").tobytes()
    data[:4] = scale if codec == "int8" else scale[2:] * 2
    with pytest.raises(PartInvalid, match=codec):
        decoded(by_name(codec), data, CHUNK)


def test_a_bf16_that_is_no_number_is_refused() -> None:
    data = bytearray(by_name("bf16").encode(some_values(1)))
    data[-2:] = b"\x80\x7f"
    with pytest.raises(PartInvalid, match="bf16"):
        decoded(by_name("bf16"), data, CHUNK)


def test_names_and_wire_ids_are_found_and_others_refused() -> None:
    assert [by_wire_id(codec.wire_id) for codec in ALL] == [by_name(codec.name) for codec in ALL] == list(ALL)
    assert [any_by_wire_id(c.wire_id) for c in EVERY] == [any_by_name(c.name) for c in EVERY] == list(EVERY)
    assert {codec.name: codec.wire_id for codec in EVERY} == {
        **{"none": 0, "bf16": 1, "int8": 2, "int4": 3, "int2": 4, "onebit": 5},
        **{"topk256": 6, "topk64": 7, "topk240x4": 8},
    }
    for name in (by_name, any_by_name):
        with pytest.raises(Unusable, match="int9"):
            name("int9")
    for wire_id in (by_wire_id, any_by_wire_id):
        with pytest.raises(PartInvalid, match="250"):
            wire_id(250)


@pytest.mark.parametrize("codec", SPARSE, ids=lambda codec: codec.name)
def test_streams_take_no_codec_of_variable_rate(codec: AnyCodec) -> None:
    with pytest.raises(Unusable, match=codec.name):
        by_name(codec.name)
    with pytest.raises(PartInvalid):
        by_wire_id(codec.wire_id)
