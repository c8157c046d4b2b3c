"""Documents into one stream of token ids, and the stream into shards; pure.

Every document is followed by the end-of-text id; blocks later cut across documents and shards alike.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from legion.data.permutation import Permutation, key_of

SHARD_BYTES = 4 << 20

Tokens = NDArray[np.unsignedinteger[Any]]
TokenBytes = Literal[1, 2, 4]


def token_bytes_for(vocab_size: int) -> TokenBytes:
    """The fewest bytes that hold every id below `vocab_size`."""
    if vocab_size <= 1 << 8:
        return 1
    return 2 if vocab_size <= 1 << 16 else 4


def dtype_of(token_bytes: TokenBytes) -> np.dtype[np.unsignedinteger[Any]]:
    """Little-endian, as shards are on disk."""
    return np.dtype(f"<u{token_bytes}")


def shards(documents: Iterable[Tokens], *, end_of_text: int, token_bytes: TokenBytes) -> Iterator[Tokens]:
    """The stream in pieces of SHARD_BYTES; only the last is shorter. Holds one shard and one document in memory."""
    size = SHARD_BYTES // token_bytes
    dtype = dtype_of(token_bytes)
    shard, filled = np.empty(size, dtype), 0
    end = np.array([end_of_text], dtype)
    for document in documents:
        for part in (document.astype(dtype, copy=False), end):
            taken = 0
            while taken < part.size:
                count = min(size - filled, part.size - taken)
                shard[filled : filled + count] = part[taken : taken + count]
                filled, taken = filled + count, taken + count
                if filled == size:
                    yield shard
                    shard, filled = np.empty(size, dtype), 0
    if filled:
        yield shard[:filled]


def held_out(names: Sequence[str], fraction: float, *, seed: int) -> frozenset[str]:
    """The names kept for validation: `fraction` of them, at least one of two, never all.

    A name's place depends on (seed, name) alone, so the choice does not follow the order of a listing.
    """
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return frozenset(ranked[: _held_out_count(len(names), fraction)])


def held_out_rows(count: int, fraction: float, *, seed: int) -> Callable[[int], bool]:
    """As `held_out`, for `count` rows without names, in constant memory: whether a row is kept for validation."""
    kept = _held_out_count(count, fraction)
    place = Permutation(count, key_of("held out", seed))
    return lambda row: place(row) < kept


def _held_out_count(count: int, fraction: float) -> int:
    if fraction <= 0 or count < 2:
        return 0
    return min(max(1, round(count * fraction)), count - 1)


def block_count(tokens: int, seq_len: int) -> int:
    """Blocks in a stream: each predicts up to `seq_len` tokens; the first token of the stream is never predicted."""
    return -(-max(0, tokens - 1) // seq_len)
