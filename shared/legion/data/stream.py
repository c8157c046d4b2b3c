"""A token stream and its blocks.

A block is `seq_len` inputs and, for each, the token after it. Consecutive blocks of a stream advance by `seq_len`
tokens, so every token but the stream's first is predicted exactly once an epoch; the tail is padded, not dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from legion.data.blobs import verified
from legion.data.packing import Tokens, block_count, dtype_of
from legion.errors import FingerprintMismatch
from legion.messages import DatasetManifest, ShardRef

NO_LABEL = -100  # what torch's cross_entropy ignores


@dataclass(frozen=True, slots=True)
class Block:
    """int64[seq_len] each. labels[t] is the token after inputs[t], or NO_LABEL where there is none."""

    inputs: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """How many predictions count."""
        return int(np.count_nonzero(self.labels != NO_LABEL))


def cut(stream: Tokens, seq_len: int, end_of_text: int) -> Block:
    """The block that starts `stream`, of which at most seq_len + 1 tokens matter; a short one is padded."""
    tokens = stream[: seq_len + 1].astype(np.int64)
    inputs = np.full(seq_len, end_of_text, np.int64)
    labels = np.full(seq_len, NO_LABEL, np.int64)
    inputs[: min(tokens.size, seq_len)] = tokens[:seq_len]
    labels[: max(0, tokens.size - 1)] = tokens[1:]
    return Block(inputs, labels)


class Stream:
    """The blocks of one token stream that lies in shards; mapped from disk, so only what is read costs memory."""

    def __init__(self, manifest: DatasetManifest, shards: Sequence[ShardRef], cache_dir: Path) -> None:
        """Raises FingerprintMismatch naming the shard that is missing or holds something else."""
        self._seq_len, self._end_of_text = manifest.seq_len, manifest.end_of_text
        self._dtype = dtype_of(manifest.token_bytes)
        self._maps = [self._map(shard, cache_dir) for shard in shards]
        self._ends = np.array([*accumulate(shard.tokens for shard in shards)], np.int64)

    def __len__(self) -> int:
        return block_count(int(self._ends[-1]) if self._maps else 0, self._seq_len)

    def __getitem__(self, index: int) -> Block:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        return cut(self._slice(index * self._seq_len, self._seq_len + 1), self._seq_len, self._end_of_text)

    def _slice(self, start: int, count: int) -> Tokens:
        pieces: list[Tokens] = []
        at = int(np.searchsorted(self._ends, start, side="right"))
        while count > 0 and at < len(self._maps):
            tokens = self._maps[at]
            offset = start - (int(self._ends[at]) - tokens.size)
            piece = tokens[offset : offset + count]
            pieces.append(piece)
            start, count, at = start + piece.size, count - piece.size, at + 1
        return np.concatenate(pieces)

    def _map(self, shard: ShardRef, cache_dir: Path) -> Tokens:
        path = verified(cache_dir, shard.sha256)
        size = path.stat().st_size
        if size != shard.size_bytes or size != shard.tokens * self._dtype.itemsize or size == 0:
            raise FingerprintMismatch(f"{path} has {size} bytes, the manifest says {shard.tokens} tokens")
        return np.memmap(path, self._dtype, mode="r")
