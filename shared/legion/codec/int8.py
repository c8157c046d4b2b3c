"""`int8`: blocks of 256 elements, one float32 scale a block (the largest magnitude / 127), round to nearest even.

The error is at most half a scale. Per chunk: 16 scales, then 4,096 values (8.125 bits per element).
"""

import numpy as np

from legion.codec.api import FixedRate, Floats, require_chunks, require_finite, require_size
from legion.errors import PartInvalid
from legion.layout import CHUNK

BLOCK = 256  # elements that share a scale
BLOCKS = CHUNK // BLOCK
# Below the smallest normal float32 a reciprocal would overflow; such a block is all but zero and is sent as zero.
SMALLEST_SCALE = np.float32(2.0**-120)


class Int8(FixedRate):
    name = "int8"
    wire_id = 2
    chunk_bytes = BLOCKS * 4 + CHUNK
    lossy = True

    def encode(self, values: Floats) -> bytes:
        require_chunks(values.size)
        x_NBE = np.ascontiguousarray(values).reshape(-1, BLOCKS, BLOCK)  # N chunks of B blocks of E elements
        largest_NB = np.maximum(x_NBE.max(axis=2), -x_NBE.min(axis=2))
        require_finite(largest_NB)
        scale_NB = largest_NB / np.float32(127)
        scale_NB[scale_NB < SMALLEST_SCALE] = 0
        divisor_NB = np.where(scale_NB == 0, np.float32(np.inf), scale_NB)
        out = np.empty((x_NBE.shape[0], self.chunk_bytes), dtype=np.uint8)
        out[:, : BLOCKS * 4] = scale_NB.astype("<f4").view(np.uint8)
        q_NBE = np.rint(x_NBE / divisor_NB[:, :, None])
        out[:, BLOCKS * 4 :] = q_NBE.astype(np.int8).view(np.uint8).reshape(-1, CHUNK)
        return out.tobytes()

    def decode(self, data: memoryview, out: Floats) -> None:
        require_size(self, data, out)
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.chunk_bytes)
        scale_NB = rows[:, : BLOCKS * 4].copy().view("<f4")
        if not (np.isfinite(scale_NB).all() and (scale_NB >= 0).all()):
            raise PartInvalid("int8: a scale is negative, NaN or infinite")
        q_NBE = rows[:, BLOCKS * 4 :].view(np.int8).reshape(-1, BLOCKS, BLOCK)
        np.multiply(q_NBE, scale_NB[:, :, None], out=out.reshape(-1, BLOCKS, BLOCK), dtype=np.float32)
