"""Gaps between positions, Rice-coded (Rice & Plaunt 1971; Golomb 1966 with a power of two).

A gap is written as its lower `width` bits, 1 to 8, and the rest in unary: so many zeros, then a one. Lower bits go to
planes and unary codes to a stream of their own, first in the lowest bit, so all of it is a matter of whole arrays.
"""

import numpy as np
from numpy.typing import NDArray

from legion.codec.api import Bytes
from legion.errors import PartInvalid

Integers = NDArray[np.int64]


def best_width(kept: int, among: int) -> int:
    """The width, 1 to 8, that takes the fewest bits for gaps between `kept` positions of `among` chosen at random."""
    skipped = 1 - kept / among
    return min(range(1, 9), key=lambda width: width + 1 / (1 - skipped ** (1 << width)))


def planes_bytes(count: int, width: int) -> int:
    return width * -(-count // 8)


def pack(codes: Bytes, width: int) -> Bytes:
    """The lower `width` bits of every code, in planes: all the lowest bits, padded to bytes, then the next."""
    return np.packbits([codes >> bit & 1 for bit in range(width)], axis=1, bitorder="little").reshape(-1)


def unpack(data: Bytes, count: int, width: int) -> Bytes:
    """`count` codes from exactly their bytes. PartInvalid when the padding is not zero."""
    planes = data.reshape(width, -1)
    if count % 8 and (planes[:, -1] >> (count % 8)).any():
        raise PartInvalid("bits that stand for nothing are not zero")
    codes = np.zeros(count, dtype=np.uint8)
    for bit, plane in enumerate(planes):
        codes |= np.unpackbits(plane, count=count, bitorder="little") << bit
    return codes


def encode_gaps(gaps: Integers, width: int) -> tuple[Bytes, Bytes]:
    """The stream of lower bits, `planes_bytes` long, and the unary stream."""
    ends = gaps >> width
    ends += 1
    np.cumsum(ends, out=ends)
    unary = np.zeros(int(ends[-1]) if ends.size else 0, dtype=np.uint8)
    ends -= 1
    unary[ends] = 1
    return pack(gaps.astype(np.uint8), width), np.packbits(unary, bitorder="little")


def decode_gaps(lower: Bytes, unary: Bytes, count: int, width: int) -> Integers:
    """`count` gaps. PartInvalid unless the unary stream holds them and nothing else."""
    ends = np.flatnonzero(np.unpackbits(unary, bitorder="little").view(np.bool_))
    if ends.size != count or unary.size != (ends[-1] // 8 + 1 if count else 0):
        raise PartInvalid(f"{ends.size} gaps in {unary.size} bytes where {count} belong")
    gaps = differences(ends)
    gaps <<= width
    gaps |= unpack(lower, count, width)
    return gaps


def differences(rising: Integers) -> Integers:
    """How many numbers lie between each and the one before it; before the first, between it and -1."""
    between = rising.copy()
    between[1:] -= rising[:-1]
    between[1:] -= 1
    return between
