"""Packing: the stream is the documents, whatever their sizes, and the shards are the stream."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.data import packing
from legion.data.entropy import entropies
from legion.data.packing import block_count, dtype_of, held_out, held_out_rows, shards, token_bytes_for

DOCUMENTS = st.lists(st.lists(st.integers(0, 255), max_size=40), max_size=12)


@pytest.mark.parametrize("shard_tokens", [1, 2, 7, 64])
@given(documents=DOCUMENTS)
def test_the_shards_are_the_documents_with_an_end_after_each(documents: list[list[int]], shard_tokens: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SHARD_BYTES", 2 * shard_tokens)
        arrays = [np.array(document, np.uint16) for document in documents]
        pieces = list(shards(arrays, end_of_text=256, token_bytes=2))
    stream = [token for document in documents for token in (*document, 256)]
    assert [token for piece in pieces for token in piece.tolist()] == stream
    assert all(piece.size == shard_tokens for piece in pieces[:-1])
    assert all(piece.size > 0 for piece in pieces)


@pytest.mark.parametrize(("vocab_size", "width"), [(2, 1), (256, 1), (257, 2), (65536, 2), (65537, 4), (1 << 32, 4)])
def test_the_largest_id_fits_its_width(vocab_size: int, width: int) -> None:
    assert token_bytes_for(vocab_size) == width
    assert np.array([vocab_size - 1], dtype_of(token_bytes_for(vocab_size)))[0] == vocab_size - 1


@given(st.integers(0, 200), st.integers(1, 9))
def test_blocks_predict_every_token_but_the_first_once(tokens: int, seq_len: int) -> None:
    count = block_count(tokens, seq_len)
    predicted = [min(seq_len, tokens - 1 - block * seq_len) for block in range(count)]
    assert sum(predicted) == max(0, tokens - 1)
    assert all(size > 0 for size in predicted)


@given(st.integers(0, 60), st.floats(0, 0.5), st.integers(0, 3))
def test_some_but_not_all_are_held_out(count: int, fraction: float, seed: int) -> None:
    names = [f"file{n}" for n in range(count)]
    kept = held_out(names, fraction, seed=seed)
    assert kept == held_out(names[::-1], fraction, seed=seed)
    if count < 2 or fraction == 0:
        assert not kept
    else:
        assert 1 <= len(kept) < count
        assert abs(len(kept) - count * fraction) <= 1
    rows = [row for row in range(count) if held_out_rows(count, fraction, seed=seed)(row)] if count else []
    assert len(rows) == len(kept)


def test_another_seed_holds_out_others() -> None:
    names = [f"file{n}" for n in range(100)]
    assert held_out(names, 0.1, seed=0) != held_out(names, 0.1, seed=1)
    chosen = [[row for row in range(100) if held_out_rows(100, 0.1, seed=seed)(row)] for seed in (0, 1)]
    assert chosen[0] != chosen[1]


@given(st.lists(st.integers(0, 3), min_size=200, max_size=400))
def test_entropies_are_those_of_the_definition(ids: list[int]) -> None:
    found = entropies(np.array(ids, np.uint16))
    singles = Counter(ids)
    unigram = -sum(n / len(ids) * math.log(n / len(ids)) for n in singles.values())
    pairs, firsts = Counter(itertools.pairwise(ids)), Counter(ids[:-1])
    bigram = -sum(n / (len(ids) - 1) * math.log(n / firsts[first]) for (first, _), n in pairs.items())
    assert found.unigram == pytest.approx(unigram, abs=1e-9)
    assert found.bigram == pytest.approx(bigram, abs=1e-9)


def test_a_stream_too_short_to_count_has_no_entropy() -> None:
    assert entropies(np.empty(0, np.uint16)).unigram is None
    assert entropies(np.arange(50, dtype=np.uint16)).unigram is None
    few = entropies(np.tile(np.arange(30, dtype=np.uint16), 10))
    assert few.unigram == pytest.approx(math.log(30))
    assert few.bigram == pytest.approx(0, abs=1e-9)
    mixed = entropies(np.random.default_rng(0).integers(0, 30, 2000).astype(np.uint16))
    assert mixed.unigram is not None
    assert mixed.bigram is None
