"""The digest is the tree of RFC 6962 over chunks, however the leaves were gathered."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.digest import leaves, root
from legion.ids import UnitId
from legion.layout import CHUNK, Layout


def rfc6962(hashes: list[bytes]) -> bytes:
    """The recursion of RFC 6962, 2.1, over leaf hashes: split at the largest power of two below the length."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + rfc6962(hashes[:split]) + rfc6962(hashes[split:])).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70))
def test_the_root_is_that_of_rfc6962(hashes: list[bytes]) -> None:
    assert root(hashes) == rfc6962(hashes).hex()


def test_a_leaf_is_the_hash_of_its_little_endian_bytes() -> None:
    values = np.arange(2 * CHUNK, dtype=np.float32)
    assert leaves(values) == [
        hashlib.sha256(b"\0" + values[at : at + CHUNK].astype("<f4").tobytes()).digest() for at in (0, CHUNK)
    ]
    assert leaves(values.astype(">f4").astype(np.float32)) == leaves(values)


def test_members_leaves_joined_give_the_root_of_the_whole() -> None:
    layout = Layout((4097, 70_000), (2, 1, 4))
    whole = np.random.default_rng(0).standard_normal(layout.total).astype(np.float32)
    joined: list[bytes] = []
    for unit, offset in enumerate(layout.offsets):
        for rank in layout.ranks:
            bounds = layout.bounds(UnitId(unit), rank)
            joined += leaves(whole[offset + bounds.start : offset + bounds.stop])
    assert root(joined) == root(leaves(whole))


@given(st.integers(0, 3 * CHUNK - 1), st.integers(0, 31))
def test_one_changed_bit_changes_the_root(element: int, bit: int) -> None:
    values = np.zeros(3 * CHUNK, np.float32)
    before = root(leaves(values))
    values.view(np.uint32)[element] ^= np.uint32(1 << bit)
    assert root(leaves(values)) != before


def test_order_and_number_of_chunks_count() -> None:
    a, b = leaves(np.concatenate([np.zeros(CHUNK, np.float32), np.ones(CHUNK, np.float32)]))
    assert len({root([a, b]), root([b, a]), root([a]), root([a, a]), root([a, a, a])}) == 5


def test_a_node_cannot_stand_for_a_leaf() -> None:
    a, b = leaves(np.arange(2 * CHUNK, dtype=np.float32))
    assert root([a, b]) != hashlib.sha256(b"\0" + a + b).hexdigest()


@pytest.mark.parametrize("values", [np.zeros(CHUNK - 1, np.float32), np.zeros(CHUNK, np.float64)])
def test_only_whole_chunks_of_float32_have_leaves(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="whole chunks"):
        leaves(values)


def test_nothing_has_no_root() -> None:
    assert leaves(np.empty(0, np.float32)) == []
    with pytest.raises(ValueError, match="no leaves"):
        root([])


def test_memory_layout_does_not_matter() -> None:
    values = np.arange(4 * CHUNK, dtype=np.float32)
    assert leaves(values[::2]) == leaves(values[::2].copy())
