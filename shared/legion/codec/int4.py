"""`int4`: blocks of 64 elements, one bf16 scale a block, sixteen steps of it, round to nearest even (4.25 bits).

The scale is the largest magnitude / 7, rounded up to bf16: nothing is clipped, and the error is at most half a scale,
which is at most 1/127 above largest / 14. bf16 rather than fp16 because pseudo-gradients lie below fp16's normal
numbers. Per chunk: 64 scales, then 2,048 bytes: byte j holds element j in its lower half and j + 2,048 in its upper,
each plus 8.
"""

import numpy as np

from legion.codec.api import FixedRate, Floats, require_chunks, require_finite, require_size
from legion.codec.blocks import (
    PIECE,
    SMALLEST_SCALE,
    as_chunks,
    bf16_above,
    bf16_below,
    from_bf16,
    pieces,
    read_scales,
    scale_blocks,
    scratch,
    write_scales,
)
from legion.layout import CHUNK

BLOCK = 64  # elements that share a scale
BLOCKS = CHUNK // BLOCK
HALF = CHUNK // 2
SCALE_BYTES = BLOCKS * 2
# Seven of them are just finite, eight are not.
LARGEST_SCALE = from_bf16(bf16_below(np.array([np.finfo(np.float32).max / np.float32(7)])))[0]


class Int4(FixedRate):
    name = "int4"
    wire_id = 3
    chunk_bytes = SCALE_BYTES + HALF
    lossy = True

    def encode(self, values: Floats) -> memoryview:
        require_chunks(values.size)
        x_NC = as_chunks(values)
        rows = np.empty((len(x_NC), self.chunk_bytes), dtype=np.uint8)
        room = scratch(len(x_NC))
        bytes_room = np.empty(room.shape, dtype=np.int8)
        for piece in pieces(len(x_NC)):
            x, row = x_NC[piece], rows[piece]
            steps, q = np.abs(x, out=room[: len(x)]), bytes_room[: len(x)]
            blocks = steps.reshape(-1, BLOCK)
            # As integers, magnitudes keep their order, and NaN is the largest.
            largest = np.maximum.reduce(blocks.view(np.uint32), axis=1).view(np.float32)
            require_finite(largest)
            scale = np.minimum(largest / np.float32(7), LARGEST_SCALE)
            scale[scale < SMALLEST_SCALE] = 0
            halves = bf16_above(scale)
            write_scales(row[:, :SCALE_BYTES], halves)
            scale = from_bf16(halves)
            scale[scale == 0] = np.inf
            np.divide(x.reshape(-1, BLOCK), scale[:, None], out=blocks)
            np.rint(steps, out=steps)
            np.copyto(q, steps, casting="unsafe")
            np.add(q, np.int8(8), out=q)
            low, high = q.view(np.uint8)[:, :HALF], q.view(np.uint8)[:, HALF:]
            np.bitwise_or(low, np.multiply(high, np.uint8(16)), out=row[:, SCALE_BYTES:])
        return rows.reshape(-1).data

    def decode(self, data: memoryview, out: Floats) -> None:
        require_size(self, data, out)
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.chunk_bytes)
        out_NC = out.reshape(-1, CHUNK)
        room = np.empty((min(PIECE, len(rows)), CHUNK), dtype=np.uint8)
        for piece in pieces(len(rows)):
            row, x, q = rows[piece], out_NC[piece], room[: len(rows[piece])]
            scale = read_scales(self.name, row[:, :SCALE_BYTES], LARGEST_SCALE)
            packed = row[:, SCALE_BYTES:]
            np.bitwise_and(packed, np.uint8(15), out=q[:, :HALF])
            np.right_shift(packed, np.uint8(4), out=q[:, HALF:])
            np.subtract(q, np.uint8(8), out=q)
            np.copyto(x, q.view(np.int8))
            scale_blocks(self.name, x.reshape(-1, BLOCK), scale, LARGEST_SCALE)
