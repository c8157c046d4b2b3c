"""One contract over every codec: whole chunks, exact sizes, bounded error, the same bytes cut anywhere."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from legion.codec.api import Codec, encoded_bytes
from legion.codec.registry import ALL, by_name, by_wire_id
from legion.errors import NotFinite, PartInvalid, Unusable
from legion.layout import CHUNK

LOSSY = [codec for codec in ALL if codec.lossy]


def some_values(chunks: int, seed: int, scale: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(chunks * CHUNK).astype(np.float32) * np.float32(scale)
    values[:: 7 + seed % 5] = 0
    return values


def roundtrip(codec: Codec, values: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.full_like(values, np.nan)
    codec.decode(memoryview(codec.encode(values)), out)
    return out


def bound(codec: Codec, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The largest error the codec's docstring allows, per element."""
    exact = values.astype(np.float64)
    if codec.name == "none":
        return np.zeros_like(exact)
    if codec.name == "bf16":
        return np.abs(exact) * 2.0**-8 + 2.0**-133
    if codec.name == "int4":
        scale = np.abs(exact).reshape(-1, 64).max(axis=1) / 7
        return np.repeat(scale * 0.5, 64) * (1 + 1 / 127) + 7 * 2.0**-120
    if codec.name == "onebit":
        mean = np.abs(exact).reshape(-1, 256).mean(axis=1)
        return np.abs(np.abs(exact) - np.repeat(mean, 256)) + np.repeat(mean, 256) * 2.0**-8 + 2.0**-120
    scale = np.abs(exact).reshape(-1, 256).max(axis=1) / 127
    return np.repeat(scale * 0.5, 256) * (1 + 1e-5) + 127 * 2.0**-120


@pytest.mark.parametrize("codec", ALL, ids=lambda c: c.name)
@settings(max_examples=25, deadline=None)
@given(chunks=st.integers(0, 3), seed=st.integers(0, 99), scale=st.sampled_from([1e-38, 1e-6, 1.0, 1e30]))
def test_the_error_is_within_the_documented_bound(codec: Codec, chunks: int, seed: int, scale: float) -> None:
    values = some_values(chunks, seed, scale)
    assert len(codec.encode(values)) == encoded_bytes(codec, values.size)
    error = np.abs(roundtrip(codec, values).astype(np.float64) - values)
    assert (error <= bound(codec, values)).all()


@pytest.mark.parametrize("codec", ALL, ids=lambda c: c.name)
def test_chunks_stand_alone(codec: Codec) -> None:
    values = some_values(3, 1, 0.02)
    pieces = b"".join(bytes(codec.encode(values[i * CHUNK : (i + 1) * CHUNK])) for i in range(3))
    assert pieces == bytes(codec.encode(values))


@pytest.mark.parametrize("codec", ALL, ids=lambda c: c.name)
@pytest.mark.parametrize("extra", [-1, 1, CHUNK])
def test_any_other_length_is_refused(codec: Codec, extra: int) -> None:
    data = bytes(codec.encode(some_values(2, 0, 1.0)))
    wrong = data[:extra] if extra < 0 else data + bytes(extra)
    with pytest.raises(PartInvalid):
        codec.decode(memoryview(wrong), np.empty(2 * CHUNK, dtype=np.float32))


@pytest.mark.parametrize("codec", LOSSY, ids=lambda c: c.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_lossy_codecs_refuse_what_is_not_finite(codec: Codec, bad: float) -> None:
    values = some_values(1, 0, 1.0)
    values[4095] = bad
    with pytest.raises(NotFinite):
        codec.encode(values)


def test_bf16_rounds_as_torch_does() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 64 * CHUNK, dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.where(np.abs(values) < 3e38, values, np.float32(1.5))
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(roundtrip(by_name("bf16"), values), expected)


def test_int8_refuses_a_scale_that_is_not_a_size() -> None:
    codec = by_name("int8")
    data = bytearray(codec.encode(some_values(1, 0, 1.0)))
    data[:4] = np.float32(np.nan).tobytes()
    with pytest.raises(PartInvalid):
        codec.decode(memoryview(data), np.empty(CHUNK, dtype=np.float32))


def test_zeros_stay_zeros() -> None:
    for codec in ALL:
        assert not roundtrip(codec, np.zeros(CHUNK, dtype=np.float32)).any()


def test_names_and_wire_ids_are_found_and_others_refused() -> None:
    assert [by_wire_id(codec.wire_id) for codec in ALL] == [by_name(codec.name) for codec in ALL] == list(ALL)
    with pytest.raises(Unusable, match="int9"):
        by_name("int9")
    with pytest.raises(PartInvalid, match="250"):
        by_wire_id(250)
