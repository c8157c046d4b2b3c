"""`bf16`: the upper half of a float32, rounded to nearest, ties to even. Relative error at most 2**-8."""

import numpy as np

from legion.codec.api import FixedRate, Floats, require_chunks, require_finite, require_size
from legion.layout import CHUNK


class Bf16(FixedRate):
    name = "bf16"
    wire_id = 1
    chunk_bytes = CHUNK * 2
    lossy = True

    def encode(self, values: Floats) -> memoryview:
        require_chunks(values.size)
        bits = np.ascontiguousarray(values).view(np.uint32)
        # Adding 0x7FFF plus the lowest kept bit carries into the kept half exactly when rounding to even goes up.
        rounded = np.right_shift(bits, 16)
        np.bitwise_and(rounded, 1, out=rounded)
        np.add(rounded, 0x7FFF, out=rounded)
        np.add(rounded, bits, out=rounded)
        halves = np.ascontiguousarray(rounded.astype("<u4", copy=False).view("<u2")[1::2])
        # An exponent of all ones is NaN or infinity, there from the start or made by rounding up the largest values.
        if (halves.view(np.uint16) & 0x7FFF).max(initial=0) >= 0x7F80:
            require_finite(np.asarray([np.inf], dtype=np.float32))
        return halves.view(np.uint8).data

    def decode(self, data: memoryview, out: Floats) -> None:
        require_size(self, data, out)
        bits = out.view(np.uint32)
        np.left_shift(np.frombuffer(data, dtype="<u2"), 16, out=bits, dtype=np.uint32, casting="unsafe")
