"""`int2`: the sign of every element and one of two magnitudes a block of 256, statistical, not linear (2.125 bits).

The magnitudes are the means of the block's small and large elements (MuLoCo, arXiv 2505.23725, finds two linear bits
worse). Meant for senders that feed the error back. Per chunk: 16 lower and 16 upper magnitudes in bf16, then 4,096 sign
bits, lowest first, 1 for negative, then 4,096 bits that choose the upper magnitude.
"""

import numpy as np

from legion.codec.api import FixedRate, Floats, require_chunks, require_size
from legion.codec.blocks import (
    SMALLEST_SCALE,
    as_chunks,
    bf16_nearest,
    masks_of,
    pack_bits,
    pieces,
    read_scales,
    scratch,
    signs_of,
    write_scales,
)
from legion.codec.levels import rooms, two_levels
from legion.layout import CHUNK

BLOCK = 256  # elements that share two magnitudes
BLOCKS = CHUNK // BLOCK
SCALE_BYTES = BLOCKS * 2 * 2
PLANE_BYTES = CHUNK // 8
# The best border between the two lies at 1.23 means for normal elements, at 1.59 for Laplacian ones.
BORDER_START = 1.5


class Int2(FixedRate):
    name = "int2"
    wire_id = 4
    chunk_bytes = SCALE_BYTES + 2 * PLANE_BYTES
    lossy = True

    def encode(self, values: Floats) -> memoryview:
        require_chunks(values.size)
        x_NC = as_chunks(values)
        rows = np.empty((len(x_NC), self.chunk_bytes), dtype=np.uint8)
        magnitudes = scratch(len(x_NC))
        more = rooms(magnitudes.shape)
        levels = np.empty((len(x_NC), 2, BLOCKS), dtype=np.float32)
        whole = np.full(magnitudes.size // BLOCK, BLOCK)
        for piece in pieces(len(x_NC)):
            x, row = x_NC[piece], rows[piece]
            blocks = np.abs(x, out=magnitudes[: len(x)]).reshape(-1, BLOCK)
            low, high, is_high = two_levels(blocks, whole[: len(blocks)], BORDER_START, more)
            levels[piece, 0] = low.reshape(-1, BLOCKS)
            levels[piece, 1] = high.reshape(-1, BLOCKS)
            row[:, SCALE_BYTES:-PLANE_BYTES] = pack_bits(np.less(x, 0, out=more.flags[: len(x)]))
            row[:, -PLANE_BYTES:] = is_high.reshape(len(x), PLANE_BYTES)
        levels[levels < SMALLEST_SCALE] = 0
        write_scales(rows[:, :SCALE_BYTES], bf16_nearest(levels))
        return rows.reshape(-1).data

    def decode(self, data: memoryview, out: Floats) -> None:
        require_size(self, data, out)
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.chunk_bytes)
        words_NC = out.view(np.uint32).reshape(-1, CHUNK)
        room = scratch(len(rows)).view(np.uint32)
        for piece in pieces(len(rows)):
            row, words = rows[piece], words_NC[piece]
            levels = read_scales(self.name, row[:, :SCALE_BYTES]).view(np.uint32).reshape(-1, 2, BLOCKS)
            low, high = (levels[:, i].reshape(-1, 1) for i in (0, 1))
            masks_of(row[:, -PLANE_BYTES:], words)
            blocks = words.reshape(-1, BLOCK)
            np.bitwise_and(blocks, low ^ high, out=blocks)
            np.bitwise_xor(blocks, low, out=blocks)
            signs = room[: len(words)]
            signs_of(row[:, SCALE_BYTES:-PLANE_BYTES], signs)
            np.bitwise_or(words, signs, out=words)
