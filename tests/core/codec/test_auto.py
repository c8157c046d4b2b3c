"""The ladder: the richest rung that fits is taken, and its contribution leaves in time."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.codec.api import encoded_bytes
from legion.codec.auto import LADDER, choose, rungs
from legion.codec.registry import any_by_name, by_name
from legion.layout import CHUNK

M = 1_000_000
BILLION = -(-(10**9) // CHUNK) * CHUNK


def test_rungs_go_from_rich_to_thin() -> None:
    assert list(rungs()) == ["int4", "int2", "onebit", "topk256", "topk64"]
    assert all(rich >= 1.9 * thin for rich, thin in itertools.pairwise(rungs().values()))


@pytest.mark.parametrize(
    ("uplink", "seconds", "name"),
    [
        (100 * M, 60, "int4"),
        (20 * M, 200, "int2"),
        (20 * M, 60, "onebit"),
        (10 * M, 60, "topk256"),
        (5 * M, 60, "topk64"),
    ],
)
def test_a_billion_parameters_on_home_links(uplink: int, seconds: float, name: str) -> None:
    assert choose(BILLION, uplink, seconds) == name


@given(st.integers(1, 1 << 20), st.floats(0, 1e12), st.floats(0, 1e4))
def test_the_richest_that_fits_is_chosen(chunks: int, uplink: float, seconds: float) -> None:
    chosen = any_by_name(choose(chunks * CHUNK, uplink, seconds))
    needed = [codec.most_bytes(chunks * CHUNK) * 8 for codec in LADDER]
    at = LADDER.index(chosen)
    assert at == len(LADDER) - 1 or needed[at] <= uplink * seconds
    assert all(bits > uplink * seconds for bits in needed[:at])


@pytest.mark.parametrize("name", rungs())
def test_exactly_enough_is_enough(name: str) -> None:
    bits = any_by_name(name).most_bytes(64 * CHUNK) * 8
    assert choose(64 * CHUNK, bits, 1.0) == name
    if name != LADDER[-1].name:
        assert choose(64 * CHUNK, bits - 1, 1.0) != name


def test_nothing_fits_so_the_thinnest_goes_late() -> None:
    assert choose(BILLION, 1000, 1.0) == LADDER[-1].name


def test_a_ladder_of_ones_own() -> None:
    ladder = (by_name("int8"), by_name("int4"))
    assert choose(CHUNK, encoded_bytes(ladder[0], CHUNK) * 8, 1.0, ladder) == "int8"
    assert choose(CHUNK, 0.0, 1.0, ladder) == "int4"


def test_what_is_encoded_fits_what_was_counted() -> None:
    values = np.random.default_rng(0).standard_normal(64 * CHUNK).astype(np.float32)
    for codec in LADDER:
        assert len(codec.encode(values)) <= codec.most_bytes(values.size)
