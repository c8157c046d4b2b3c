"""`int8`: blocks of 256 elements, one float32 scale a block (the largest magnitude / 127), round to nearest even.

The error is at most half a scale. Per chunk: 16 scales, then 4,096 values (8.125 bits per element).
"""

import numpy as np

from legion.codec.api import FixedRate, Floats, require_chunks, require_finite, require_size
from legion.codec.blocks import SMALLEST_SCALE, as_chunks, pieces, scale_blocks, scratch
from legion.errors import PartInvalid
from legion.layout import CHUNK

BLOCK = 256  # elements that share a scale
BLOCKS = CHUNK // BLOCK
SCALE_BYTES = BLOCKS * 4
# 127 of them are just finite, 128 are not.
LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))


class Int8(FixedRate):
    name = "int8"
    wire_id = 2
    chunk_bytes = SCALE_BYTES + CHUNK
    lossy = True

    def encode(self, values: Floats) -> memoryview:
        require_chunks(values.size)
        x_NC = as_chunks(values)
        rows = np.empty((len(x_NC), self.chunk_bytes), dtype=np.uint8)
        room = scratch(len(x_NC))
        for piece in pieces(len(x_NC)):
            x, row = x_NC[piece], rows[piece]
            steps = np.abs(x, out=room[: len(x)])
            blocks = steps.reshape(-1, BLOCK)
            # As integers, magnitudes keep their order, and NaN is the largest.
            largest = np.maximum.reduce(blocks.view(np.uint32), axis=1).view(np.float32)
            require_finite(largest)
            scale = np.minimum(largest / np.float32(127), LARGEST_SCALE)
            scale[scale < SMALLEST_SCALE] = 0
            row[:, :SCALE_BYTES] = scale.astype("<f4", copy=False).view(np.uint8).reshape(-1, SCALE_BYTES)
            scale[scale == 0] = np.inf
            np.divide(x.reshape(-1, BLOCK), scale[:, None], out=blocks)
            np.rint(steps, out=steps)
            np.copyto(row[:, SCALE_BYTES:].view(np.int8), steps, casting="unsafe")
        return rows.reshape(-1).data

    def decode(self, data: memoryview, out: Floats) -> None:
        require_size(self, data, out)
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.chunk_bytes)
        out_NC = out.reshape(-1, CHUNK)
        for piece in pieces(len(rows)):
            row, x = rows[piece], out_NC[piece]
            scale = row[:, :SCALE_BYTES].copy().view("<f4").reshape(-1)
            if not ((scale >= 0) & (scale <= LARGEST_SCALE)).all():
                raise PartInvalid(f"{self.name}: a scale is negative, too large, NaN or infinite")
            np.copyto(x, row[:, SCALE_BYTES:].view(np.int8))
            scale_blocks(self.name, x.reshape(-1, BLOCK), scale, LARGEST_SCALE)
