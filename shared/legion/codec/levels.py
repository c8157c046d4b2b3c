"""Two magnitudes that stand for a row of them: what `int2` and `topk` write, beside a sign, for every element."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from legion.codec.api import Bytes, Floats
from legion.codec.blocks import means, pack_bits


class Rooms(NamedTuple):
    """Scratch memory, each as large as the magnitudes or larger."""

    values: Floats
    sums: Floats
    flags: NDArray[np.bool_]


def rooms(shape: tuple[int, ...]) -> Rooms:
    return Rooms(np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.bool_))


class Levels(NamedTuple):
    low: Floats  # [N]
    high: Floats  # [N]
    is_high: Bytes  # [N, E / 8] bits: which elements the second stands for


def two_levels(magnitudes: Floats, counts: NDArray[np.int64], start: float, scratch: Rooms) -> Levels:
    """Means of the small and of the large magnitudes of every row of [N, E], E a power of two, 64 at least.

    Two steps of Lloyd's algorithm (1982) from the border `start` x mean. Only the first `counts` of a row count, the
    rest is zero. NotFinite if a magnitude is not.
    """
    width = magnitudes.shape[1]
    room = scratch.values.reshape(-1)[: magnitudes.size].reshape(magnitudes.shape)
    small = scratch.flags.reshape(-1)[: magnitudes.size].reshape(magnitudes.shape)
    with np.errstate(over="ignore"):
        mean = means(magnitudes, scratch.sums)
        border = _scaled(mean, width, counts) * np.float32(start)
        for step in (1, 2):
            np.less_equal(magnitudes, border[:, None], out=small)
            bits = pack_bits(small)
            _only(small, magnitudes, room)
            mean_small = means(room, scratch.sums)
            of_small = np.bitwise_count(bits.view(np.uint64)).sum(axis=1, dtype=np.int64) - (width - counts)
            low = _scaled(mean_small, width, of_small)
            high = _scaled(np.subtract(mean, mean_small), width, counts - of_small)
            if step == 1:
                border = np.add(low * np.float32(0.5), high * np.float32(0.5))
    # Rounding can put the means of magnitudes that are all but equal the wrong way round.
    return Levels(low, np.maximum(low, high), np.invert(bits))


def _scaled(mean: Floats, width: int, counts: NDArray[np.int64]) -> Floats:
    """Means over `width` elements to means over `counts` of them; 0 for none."""
    return mean * (np.float32(width) / np.maximum(counts, 1).astype(np.float32))


def _only(flags: NDArray[np.bool_], values: Floats, out: Floats) -> None:
    """`values` where the flag is set, else 0; `flags` are overwritten.

    As integers: numpy's own masked loops are several times slower.
    """
    masks, signs = out.view(np.int32), flags.view(np.int8)
    np.copyto(masks, np.negative(signs, out=signs))
    np.bitwise_and(masks, values.view(np.int32), out=masks)
