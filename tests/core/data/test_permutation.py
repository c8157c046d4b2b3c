"""The shuffle: a bijection for every size, another for every key, the same in every process."""

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.data.permutation import Permutation, key_of


@pytest.mark.parametrize("size", [*range(1, 34), 63, 64, 65, 255, 256, 257, 1000])
def test_every_element_is_met_once(size: int) -> None:
    place = Permutation(size, key_of("test", size))
    assert sorted(map(place, range(size))) == list(range(size))


@given(st.integers(1, 400), st.binary(min_size=1, max_size=64))
def test_every_key_gives_a_bijection(size: int, key: bytes) -> None:
    assert sorted(map(Permutation(size, key), range(size))) == list(range(size))


@given(st.integers(1, 1 << 62), st.data())
def test_large_sizes_stay_in_range_and_keep_elements_apart(size: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, size - 1), unique=True, max_size=5))
    found = list(map(Permutation(size, b"key"), positions))
    assert all(0 <= value < size for value in found)
    assert len(set(found)) == len(positions)


@pytest.mark.parametrize("position", [-1, 10])
def test_positions_outside_are_refused(position: int) -> None:
    with pytest.raises(IndexError):
        Permutation(10, b"key")(position)


def test_it_mixes() -> None:
    size = 10_000
    first, second = ([Permutation(size, key_of(epoch))(n) for n in range(size)] for epoch in (0, 1))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10
    assert sum(abs(a - b) == 1 for a, b in itertools.pairwise(first)) < 10
    early = sum(value < size // 2 for value in first[: size // 2])
    assert abs(early - size / 4) < 200  # four standard deviations


def test_another_process_finds_the_same() -> None:
    code = "from legion.data.permutation import *; print([Permutation(77, key_of('a', 1))(n) for n in range(77)])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str([Permutation(77, key_of("a", 1))(n) for n in range(77)])
