"""The digest of weights: a tree of SHA-256 over chunks of 4,096 float32 elements.

Members send leaves of their own slices; whoever holds all leaves computes the root, so nobody needs all weights.
Odd nodes move up unchanged; inner nodes are prefixed so that a leaf can never stand for a node (RFC 6962, 2.1).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from legion.layout import CHUNK

CHUNK_BYTES = 4 * CHUNK
_PREFIX = hashlib.sha256(b"\0")


def leaves(values: NDArray[np.float32]) -> list[bytes]:
    """One SHA-256 per chunk; `values` is a whole number of chunks, hashed as little-endian float32."""
    if values.dtype != np.float32 or values.size % CHUNK:
        raise ValueError(f"leaves need whole chunks of float32, got {values.size} of {values.dtype}")
    data = np.ascontiguousarray(values, dtype="<f4").view(np.uint8).reshape(-1).data
    return [_leaf(data[start : start + CHUNK_BYTES]) for start in range(0, data.nbytes, CHUNK_BYTES)]


def _leaf(chunk: memoryview) -> bytes:
    made = _PREFIX.copy()
    made.update(chunk)
    return made.digest()


def root(hashes: Sequence[bytes]) -> str:
    """The root of the tree, in hex."""
    if not hashes:
        raise ValueError("no leaves")
    level = list(hashes)
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\1" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0].hex()
