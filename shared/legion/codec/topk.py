"""`topk`: of every chunk the `kept` largest magnitudes, the rest is zero. Of variable rate: positions are Rice-coded.

Meant for senders that keep what is not sent (SparseLoCo, arXiv 2508.15706, and its chunks of 4,096). Of equal
magnitudes the first are kept; zeros never are, so a chunk may hold fewer. Values are a sign and an index i < n of
`value_bits - 1` bits, for the magnitude lower + (upper - lower) (i / (n - 1))^2; each chunk has a lower and an upper in
bf16. With two bits they are the means of the small and of the large magnitudes kept. With more, they are the smallest
and the largest, and the square puts the values where the magnitudes are: at four bits it loses 0.6 times what equal
distances lose of heavy tails.

Groups of 64 chunks stand alone. An encoding is the size of every group (uint32, little-endian), then the groups; each
is, for its chunks in order: counts (one byte, two from 256 kept on), lower magnitudes, upper magnitudes, then for all
values in order of their position: planes of signs (1 for negative) and of indices, planes of the lower bits of gaps,
gaps in unary (`rice`). A gap is the number of elements between a kept one and the one kept before it in the chunk, or
the chunk's start.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from legion.codec import rice
from legion.codec.api import Bytes, Floats, require_chunks, require_finite, require_room
from legion.codec.blocks import (
    PIECE,
    SMALLEST_SCALE,
    Halves,
    Words,
    as_chunks,
    bf16_above,
    bf16_below,
    bf16_nearest,
    from_bf16,
    pieces,
    read_scales,
    scratch,
)
from legion.codec.levels import rooms as level_rooms
from legion.codec.levels import two_levels
from legion.codec.rice import Integers, decode_gaps, differences, encode_gaps, planes_bytes
from legion.errors import PartInvalid
from legion.layout import CHUNK

GROUP = 64  # chunks
BATCH = 4 * PIECE  # chunks encoded at a time, a whole number of groups
MAGNITUDE = np.uint32(0x7FFFFFFF)
NEGLIGIBLE = SMALLEST_SCALE.view(np.uint32)
LEVEL_BYTES = 4  # a chunk


class Kept(NamedTuple):
    """What is sent of N chunks."""

    counts: Integers  # [N]
    positions: Integers  # from the start of the first chunk, rising
    bits: Words  # of the float32 there


class TopK:
    lossy = True

    def __init__(self, name: str, wire_id: int, *, kept: int, value_bits: int) -> None:
        """`kept` of 4,096 elements, 8 to 1,024; 2 to 8 bits a value."""
        if not (8 <= kept <= 1024 and 2 <= value_bits <= 8):
            raise ValueError(f"topk cannot keep {kept} of {CHUNK} with {value_bits} bits each")
        self.name = name
        self.wire_id = wire_id
        self.kept = kept
        self.value_bits = value_bits
        self._gap_bits = rice.best_width(kept, CHUNK)
        self._heads = max(512, 1 << (2 * kept - 1).bit_length())  # groups of a chunk
        self._last_index = (1 << value_bits - 1) - 1
        self._squares = np.square(np.arange(self._last_index + 1, dtype=np.float32)) / np.float32(self._last_index**2)
        self._count_type = np.dtype("u1" if kept < 256 else "<u2")

    def most_bytes(self, numel: int) -> int:
        groups, rest = divmod(numel // CHUNK, GROUP)
        return groups * (4 + self._most_group_bytes(GROUP)) + (4 + self._most_group_bytes(rest) if rest else 0)

    def _most_group_bytes(self, chunks: int) -> int:
        unary = chunks * self.kept + (chunks * (CHUNK - self.kept) >> self._gap_bits)
        return self._fixed_bytes(chunks, chunks * self.kept) + planes_bytes(unary, 1)

    def _fixed_bytes(self, chunks: int, values: int) -> int:
        """A group without its unary stream."""
        head = chunks * (self._count_type.itemsize + LEVEL_BYTES)
        return head + planes_bytes(values, self.value_bits) + planes_bytes(values, self._gap_bits)

    def encode(self, values: Floats) -> bytes:
        require_chunks(values.size)
        x_NC = as_chunks(values)
        rooms = np.empty((2, *scratch(len(x_NC)).shape), dtype=np.float32)
        return self.written(self._select(x_NC[batch], rooms) for batch in pieces(len(x_NC), BATCH))

    def written(self, selected: Iterable[Kept]) -> bytes:
        """The encoding of what is kept of consecutive chunks: each but the last of a whole number of groups."""
        groups = [group for kept in selected for group in self._groups(kept)]
        return np.array([len(group) for group in groups], dtype="<u4").tobytes() + b"".join(groups)

    def _groups(self, kept: Kept) -> Iterator[bytes]:
        counts, positions, bits = kept
        low, high, indices = self._levels(np.bitwise_and(bits, MAGNITUDE).view(np.float32), counts)
        codes = np.bitwise_or((bits >> 31).astype(np.uint8), indices << 1)
        ends = np.cumsum(counts)
        gaps = differences(positions)
        first = (ends - counts)[counts > 0]
        gaps[first] = positions[first] % CHUNK
        for group in pieces(len(counts), GROUP):
            one = slice(ends[group.start] - counts[group.start], ends[group.stop - 1])
            lower, unary = encode_gaps(gaps[one], self._gap_bits)
            head = (counts[group].astype(self._count_type), low[group].astype("<u2"), high[group].astype("<u2"))
            yield b"".join(part.tobytes() for part in (*head, rice.pack(codes[one], self.value_bits), lower, unary))

    def _select(self, values: Floats, rooms: Floats) -> Kept:
        chosen = rooms[1].view(np.bool_).reshape(-1, CHUNK)[: len(values)]
        least = np.empty((len(values), 1), dtype=np.uint32)
        for piece in pieces(len(values)):
            bits = values[piece].view(np.uint32)
            magnitudes = rooms.view(np.uint32)[0, : len(bits)]
            np.bitwise_and(bits, MAGNITUDE, out=magnitudes)
            np.maximum(self._least(magnitudes, chosen[piece]), NEGLIGIBLE, out=least[piece])
            _reaching(magnitudes, least[piece], chosen[piece])
        positions, counts = _flags_set(chosen)
        if (counts > self.kept).any():
            _drop_surplus(chosen, values, least, counts - self.kept)
            positions, counts = _flags_set(chosen)
        bits = np.take(values.view(np.uint32), positions)
        require_finite(bits.view(np.float32))  # what is not is larger than any number, so it was kept
        return Kept(counts, positions, bits)

    def _least(self, magnitudes: Words, room: NDArray[np.bool_]) -> Words:
        """[N, 1]: the `kept`-th largest of every row; less than `NEGLIGIBLE` if that is.

        Of a row cut into groups, the `kept`-th largest of their maxima is not above it, as maxima are elements. Few
        elements reach that, and only those have to be ranked: numpy ranks slower than it compares.
        """
        heads = np.maximum.reduce(magnitudes.reshape(len(magnitudes), -1, self._heads), axis=1)
        heads.partition(self._heads - self.kept, axis=1)
        _reaching(magnitudes, np.maximum(heads[:, [self._heads - self.kept]], NEGLIGIBLE), room)
        positions, counts = _flags_set(room)
        width = max(self.kept, int(counts.max()))
        ranked, _ = _in_rows(np.take(magnitudes, positions).view(np.float32), counts, width)
        found = ranked.view(np.uint32)
        found.partition(width - self.kept, axis=1)
        return found[:, [width - self.kept]]

    def _levels(self, magnitudes: Floats, counts: Integers) -> tuple[Halves, Halves, Bytes]:
        """Lower and upper magnitude of every chunk in bf16, and the index of every value."""
        if self.value_bits == 2:
            rows, slots = _in_rows(magnitudes, counts, max(512, 1 << (self.kept - 1).bit_length()))
            means = two_levels(rows, counts, 1.0, level_rooms(rows.shape))
            is_high = np.unpackbits(means.is_high, bitorder="little")[slots]
            return bf16_nearest(means.low), bf16_nearest(means.high), is_high
        low, high = np.zeros((2, len(counts)), dtype=np.float32)
        if magnitudes.size:
            first = (np.cumsum(counts) - counts)[counts > 0]
            low[counts > 0] = np.minimum.reduceat(magnitudes, first)
            high[counts > 0] = np.maximum.reduceat(magnitudes, first)
        lower, upper = bf16_below(low), bf16_above(high)
        low, high = (np.repeat(from_bf16(half), counts) for half in (lower, upper))
        return lower, upper, self._nearest(magnitudes, low, high)

    def _nearest(self, magnitudes: Floats, low: Floats, high: Floats) -> Bytes:
        """The index of every magnitude, given the lower and the upper of its chunk."""
        span = np.subtract(high, low)
        span[span == 0] = np.inf
        above = np.divide(np.subtract(magnitudes, low), span)
        # The squares i^2 and (i + 1)^2 have (i + 1/2)^2 + 1/4 in their middle.
        squares = np.subtract(np.multiply(above, np.float32(self._last_index**2)), np.float32(0.25))
        indices = np.add(np.sqrt(np.maximum(squares, 0)), np.float32(0.5))
        return np.minimum(indices, self._last_index).astype(np.uint8)

    def decode(self, data: memoryview, out: Floats) -> None:
        self.decode_range(data, out.size, 0, out)

    def decode_range(self, data: memoryview, numel: int, start: int, out: Floats) -> None:
        require_room(out)
        chunks, first, stop = numel // CHUNK, start // CHUNK, (start + out.size) // CHUNK
        edges = self._group_edges(data, numel)
        out_NC = out.reshape(-1, CHUNK)
        for number in range(first // GROUP, -(-stop // GROUP)):
            begin, end = number * GROUP, min((number + 1) * GROUP, chunks)
            raw = np.frombuffer(data, dtype=np.uint8)[edges[number] : edges[number + 1]]
            if first <= begin and end <= stop:
                self._decode_group(raw, out_NC[begin - first : end - first])
            else:
                room = np.empty((end - begin, CHUNK), dtype=np.float32)
                self._decode_group(raw, room)
                at, until = max(begin, first), min(end, stop)
                out_NC[at - first : until - first] = room[at - begin : until - begin]

    def _group_edges(self, data: memoryview, numel: int) -> list[int]:
        """Where the groups begin, and where the last ends. PartInvalid unless that is the end of the data."""
        table = 4 * -(-numel // CHUNK // GROUP)
        if not table <= data.nbytes <= self.most_bytes(numel):
            raise PartInvalid(f"{self.name}: {data.nbytes} bytes for {numel} elements")
        sizes = np.frombuffer(data, dtype="<u4", count=table // 4).astype(np.int64)
        edges = table + np.concatenate(([0], np.cumsum(sizes)))
        if edges[-1] != data.nbytes:
            raise PartInvalid(f"{self.name}: the sizes of the groups do not add up to {data.nbytes} bytes")
        return [int(edge) for edge in edges]

    def _decode_group(self, raw: Bytes, out: Floats) -> None:
        chunks = len(out)
        head = chunks * (self._count_type.itemsize + LEVEL_BYTES)
        if not head <= raw.size <= self._most_group_bytes(chunks):
            raise PartInvalid(f"{self.name}: {raw.size} bytes for {chunks} chunks")
        at = chunks * self._count_type.itemsize
        counts = raw[:at].view(self._count_type).astype(np.int64)
        total = int(counts.sum())
        fixed = self._fixed_bytes(chunks, total)
        if (counts > self.kept).any() or fixed > raw.size:
            raise PartInvalid(f"{self.name}: a group of {raw.size} bytes announces {total} values")
        low, high = read_scales(self.name, raw[at:head]).reshape(2, chunks)
        if (low > high).any():
            raise PartInvalid(f"{self.name}: a lower magnitude is above the upper")
        middle = head + planes_bytes(total, self.value_bits)
        codes = rice.unpack(raw[head:middle], total, self.value_bits)
        gaps = decode_gaps(raw[middle:fixed], raw[fixed:], total, self._gap_bits)
        table = np.multiply(np.subtract(high, low)[:, None], self._squares)
        np.add(table, low[:, None], out=table)
        entries = np.repeat(np.arange(chunks) * table.shape[1], counts)
        entries += codes >> 1
        values = np.take(table, entries).view(np.uint32)
        signs = codes.astype(np.uint32)
        signs <<= 31
        values |= signs
        out[...] = 0
        out.reshape(-1).view(np.uint32)[_positions(gaps, counts)] = values


def _in_rows(magnitudes: Floats, counts: Integers, width: int) -> tuple[Floats, Integers | slice]:
    """One row of `width` for each chunk, zeros behind its values, and where in the rows the values lie."""
    rows = np.zeros((len(counts), width), dtype=np.float32)
    slots: Integers | slice = slice(None)
    if magnitudes.size < rows.size:
        before = np.arange(len(counts)) * width - np.cumsum(counts) + counts
        slots = np.arange(magnitudes.size) + np.repeat(before, counts)
    rows.reshape(-1)[slots] = magnitudes
    return rows, slots


def _flags_set(flags: NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """Positions as `np.flatnonzero` finds them, and counts of every row.

    Faster where they are few: numpy branches on every flag when fewer than a tenth are set.
    """
    eights = flags.reshape(-1).view(np.uint64)
    some = np.flatnonzero(eights != 0)
    found = np.flatnonzero(np.take(eights, some).view(np.bool_))
    positions: Integers = np.take(some, found >> 3)
    positions <<= 3
    found &= 7
    positions += found
    rows, width = flags.shape
    return positions, np.diff(np.searchsorted(positions, np.arange(rows + 1) * width))


def _reaching(magnitudes: Words, least: Words, out: NDArray[np.bool_]) -> None:
    """Which elements of [N, E] are not below their row's of [N, 1]."""
    with np.errstate():  # which restores the size of the buffers
        np.setbufsize(CHUNK)  # with larger ones numpy first copies `least` to every element
        np.greater_equal(magnitudes, least, out=out)


def _drop_surplus(chosen: NDArray[np.bool_], values: Floats, least: Words, surplus: Integers) -> None:
    """Rows with more elements than wanted lose the last of those that equal the least."""
    (rows,) = np.nonzero(surplus > 0)
    equal = np.equal(np.bitwise_and(values.view(np.uint32)[rows], MAGNITUDE), least[rows])
    stay = np.count_nonzero(equal, axis=1) - surplus[rows]
    chosen[rows] &= ~(equal & (np.cumsum(equal, axis=1, dtype=np.int32) > stay[:, None]))


def _positions(gaps: Integers, counts: Integers) -> Integers:
    """The position in the group of every value; `gaps` are overwritten. PartInvalid when one lies behind its chunk."""
    ends = gaps
    ends += 1
    np.cumsum(ends, out=ends)
    first = np.cumsum(counts) - counts
    before = np.zeros(len(counts), dtype=np.int64)
    before[first > 0] = ends[first[first > 0] - 1]
    ends -= np.repeat(before + 1, counts)
    if (ends >= CHUNK).any():
        raise PartInvalid("topk: a position lies behind the end of its chunk")
    ends += np.repeat(np.arange(len(counts)) * CHUNK, counts)
    return ends
