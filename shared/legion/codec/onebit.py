"""`onebit`: the sign of every element and one magnitude a block of 256: the mean of its elements' (1.0625 bits).

Meant for senders that feed the error back (Seide et al. 2014; Karimireddy et al., arXiv 1901.09847). Per chunk: 16
magnitudes in bf16, then 4,096 sign bits, lowest first, 1 for negative.
"""

import numpy as np

from legion.codec.api import FixedRate, Floats, require_chunks, require_size
from legion.codec.blocks import (
    PARTIAL,
    SMALLEST_SCALE,
    as_chunks,
    bf16_nearest,
    means_of,
    pack_bits,
    partial_sums,
    pieces,
    read_scales,
    scratch,
    signs_of,
    write_scales,
)
from legion.layout import CHUNK

BLOCK = 256  # elements that share a magnitude
BLOCKS = CHUNK // BLOCK
SCALE_BYTES = BLOCKS * 2
ENCODED, BATCH = 16, 128  # chunks: encoded at a time; whose last additions are made together


class OneBit(FixedRate):
    name = "onebit"
    wire_id = 5
    chunk_bytes = SCALE_BYTES + CHUNK // 8
    lossy = True

    def encode(self, values: Floats) -> memoryview:
        require_chunks(values.size)
        x_NC = as_chunks(values)
        rows = np.empty((len(x_NC), self.chunk_bytes), dtype=np.uint8)
        room = scratch(len(x_NC), ENCODED)
        negative = np.empty(room.shape, dtype=np.bool_)
        partial = np.empty((min(BATCH, len(x_NC)), BLOCKS, PARTIAL), dtype=np.float32)
        mean_NB = np.empty((len(x_NC), BLOCKS), dtype=np.float32)
        with np.errstate(over="ignore"):
            for batch in pieces(len(x_NC), BATCH):
                x, row = x_NC[batch], rows[batch]
                for piece in pieces(len(x), ENCODED):
                    one = x[piece]
                    row[piece, SCALE_BYTES:] = pack_bits(np.less(one, 0, out=negative[: len(one)]))
                    partial_sums(one.reshape(-1, BLOCK), room, partial[piece])
                mean = means_of(partial[: len(x)].reshape(-1, PARTIAL), x.reshape(-1, BLOCK))
                mean_NB[batch] = mean.reshape(-1, BLOCKS)
        mean_NB[mean_NB < SMALLEST_SCALE] = 0
        write_scales(rows[:, :SCALE_BYTES], bf16_nearest(mean_NB))
        return rows.reshape(-1).data

    def decode(self, data: memoryview, out: Floats) -> None:
        require_size(self, data, out)
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.chunk_bytes)
        words_NC = out.view(np.uint32).reshape(-1, CHUNK)
        for piece in pieces(len(rows)):
            row, words = rows[piece], words_NC[piece]
            magnitude = read_scales(self.name, row[:, :SCALE_BYTES]).view(np.uint32)
            signs_of(row[:, SCALE_BYTES:], words)
            blocks = words.reshape(-1, BLOCK)
            np.bitwise_or(blocks, magnitude.reshape(-1, 1), out=blocks)
