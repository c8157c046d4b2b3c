"""What the codecs of few bits share: pieces that stay in cache, block scales, sums of a fixed order, planes of bits.

Shapes: N chunks of B blocks of E elements.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from legion.codec.api import Bytes, Floats, require_finite
from legion.errors import PartInvalid
from legion.layout import CHUNK

Halves = NDArray[np.uint16]
Words = NDArray[np.uint32]

PIECE = 32  # chunks worked on at a time: 512 KiB of float32, which a core's cache holds
# Nothing below is worth a reciprocal that overflows, or arithmetic with denormals; it is sent as zero.
SMALLEST_SCALE = np.float32(2.0**-120)
PARTIAL, _PARTIAL_BYTES = 16, "V64"  # sums of a row that are left before the last, short additions
LARGEST_BF16 = np.uint16(0x7F7F)


def pieces(chunks: int, size: int = PIECE) -> Iterator[slice]:
    """Consecutive ranges of at most `size` chunks."""
    return (slice(start, min(start + size, chunks)) for start in range(0, chunks, size))


def as_chunks(values: Floats) -> Floats:
    """[N, CHUNK], a view where `values` allow it."""
    return np.ascontiguousarray(values, dtype=np.float32).reshape(-1, CHUNK)


def scratch(chunks: int, size: int = PIECE) -> Floats:
    """Room for one piece of `chunks` chunks, [N, CHUNK]: made once a call, because fresh memory is slow."""
    return np.empty((min(size, chunks), CHUNK), dtype=np.float32)


def partial_sums(rows: Floats, room: Floats, out: Floats) -> None:
    """`out`, [N, 16]: the magnitudes of every row of [N, E], halves added onto halves until 16 are left.

    E is a power of two, 32 at least; `room` is as large as `rows` and overwritten. Sums may overflow: to be called
    under `np.errstate(over="ignore")`, which takes too long to be entered for every piece.
    """
    count, width = rows.shape
    groups = width // PARTIAL
    x_G = room.reshape(-1)[: rows.size].reshape(groups, count * PARTIAL)
    # numpy is slow on short rows: brought together by 64 bytes, one row's neighbours are another addition's.
    np.copyto(x_G.view(_PARTIAL_BYTES), rows.view(_PARTIAL_BYTES).T)
    np.abs(x_G, out=x_G)
    while groups > 2:
        groups //= 2
        np.add(x_G[:groups], x_G[groups : 2 * groups], out=x_G[:groups])
    np.add(x_G[0], x_G[1], out=out.reshape(-1))


def means_of(partial: Floats, rows: Floats) -> Floats:
    """[N]: the mean magnitude of every row whose partial sums are given; NotFinite if one is not.

    Summed as a binary tree: `np.add.reduce` leaves its order to the build of numpy. To be called as `partial_sums` is.
    """
    x_EN = np.ascontiguousarray(partial.T)
    share = np.float32(1 / rows.shape[1])
    for half in (8, 4, 2, 1):
        np.add(x_EN[:half], x_EN[half : 2 * half], out=x_EN[:half])
    mean: Floats = np.multiply(x_EN[0], share)
    if not np.isfinite(mean).all():
        (large,) = np.nonzero(~np.isfinite(mean))
        shares_NE = np.multiply(rows[large], share)  # divided before they are added, they cannot overflow
        require_finite(shares_NE)
        small = np.empty((large.size, PARTIAL), dtype=np.float32)
        partial_sums(shares_NE, np.empty_like(shares_NE), small)
        mean[large] = means_of(small, shares_NE) / share
    return mean


def means(rows: Floats, room: Floats) -> Floats:
    """[N]: the mean magnitude of every row of [N, E]; see `partial_sums` and `means_of`, and call it as those."""
    partial = np.empty((len(rows), PARTIAL), dtype=np.float32)
    partial_sums(rows, room, partial)
    return means_of(partial, rows)


def bf16_above(values: Floats) -> Halves:
    """The smallest bf16 that is not below, of values >= 0; the largest finite one at most."""
    return _upper_half(values, 0xFFFF)


def bf16_nearest(values: Floats) -> Halves:
    """Of values >= 0; ties up; the largest finite one at most."""
    return _upper_half(values, 0x8000)


def bf16_below(values: Floats) -> Halves:
    """The largest bf16 that is not above, of values >= 0."""
    return _upper_half(values, 0)


def _upper_half(values: Floats, carry: int) -> Halves:
    rounded = np.right_shift(np.add(values.view(np.uint32), np.uint32(carry)), 16).astype(np.uint16)
    return np.minimum(rounded, LARGEST_BF16)


def from_bf16(halves: Halves) -> Floats:
    return np.left_shift(halves, 16, dtype=np.uint32).view(np.float32)


def read_scales(name: str, field: Bytes, largest: np.float32 = np.float32(3.4e38)) -> Floats:
    """bf16 scales, little-endian, from bytes whose last axis is theirs; PartInvalid beyond [0, `largest`]."""
    scales = from_bf16(np.ascontiguousarray(field).view("<u2").astype(np.uint16, copy=False))
    # Negative numbers and NaN have larger bits than any allowed scale.
    if (scales.view(np.uint32) > largest.view(np.uint32)).any():
        raise PartInvalid(f"{name}: a scale is negative, too large, NaN or infinite")
    return scales


def write_scales(field: Bytes, halves: Halves) -> None:
    field[...] = halves.astype("<u2", copy=False).view(np.uint8).reshape(field.shape)


def scale_blocks(name: str, blocks: Floats, scales: Floats, largest: np.float32) -> None:
    """Every row of [N, E] times its scale, in place. PartInvalid when that overflows, which takes half of `largest`."""
    with np.errstate(over="ignore"):
        np.multiply(blocks, scales.reshape(-1, 1), out=blocks)
    if scales.max(initial=0) > largest / 2 and not np.isfinite(blocks).all():
        raise PartInvalid(f"{name}: a value is infinite")


def _plane(word: int) -> Words:
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return bits * np.uint32(word)


_SIGNS = _plane(1 << 31)
_MASKS = _plane((1 << 32) - 1)


def pack_bits(flags: NDArray[np.bool_]) -> Bytes:
    """Rows of flags to rows of bytes, lowest bit first."""
    return np.packbits(flags, bitorder="little").reshape(flags.shape[0], -1)


def signs_of(bits: Bytes, out: Words) -> Words:
    """The sign bit of a float32 for every 1 in the plane, else 0; into `out`, one word a bit."""
    return np.take(_SIGNS, bits.reshape(-1), axis=0, out=out.reshape(-1, 8), mode="clip")


def masks_of(bits: Bytes, out: Words) -> Words:
    """All ones for every 1 in the plane, else 0; into `out`, one word a bit."""
    return np.take(_MASKS, bits.reshape(-1), axis=0, out=out.reshape(-1, 8), mode="clip")
