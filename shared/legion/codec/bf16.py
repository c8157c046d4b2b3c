"""`bf16`: the upper half of a float32, rounded to nearest, ties to even. Relative error at most 2**-8."""

import numpy as np

from legion.codec.api import FixedRate, Floats, require_chunks, require_finite, require_size
from legion.codec.blocks import as_chunks, pieces, scratch
from legion.errors import PartInvalid
from legion.layout import CHUNK

NOT_FINITE = np.uint16(0x7F80)  # an exponent of all ones; NaN has more


class Bf16(FixedRate):
    name = "bf16"
    wire_id = 1
    chunk_bytes = CHUNK * 2
    lossy = True

    def encode(self, values: Floats) -> memoryview:
        require_chunks(values.size)
        bits_NC = as_chunks(values).view(np.uint32)
        halves = np.empty(bits_NC.shape, dtype="<u2")
        room = scratch(len(halves)).view(np.uint32)
        largest = 0
        for piece in pieces(len(halves)):
            bits = bits_NC[piece]
            # Adding 0x7FFF plus the lowest kept bit carries into the kept half exactly when rounding to even goes up.
            rounded = np.right_shift(bits, 16, out=room[: len(bits)])
            np.bitwise_and(rounded, 1, out=rounded)
            np.add(rounded, 0x7FFF, out=rounded)
            np.add(rounded, bits, out=rounded)
            np.right_shift(rounded, 16, out=rounded)
            np.copyto(halves[piece], rounded, casting="unsafe")
            largest = max(largest, np.bitwise_and(rounded, 0x7FFF, out=rounded).max())
        # There from the start, or made by rounding up the largest values.
        if largest >= NOT_FINITE:
            require_finite(np.asarray([np.inf], dtype=np.float32))
        return halves.reshape(-1).view(np.uint8).data

    def decode(self, data: memoryview, out: Floats) -> None:
        require_size(self, data, out)
        halves = np.frombuffer(data, dtype="<u2").reshape(-1, CHUNK)
        bits_NC = out.view(np.uint32).reshape(-1, CHUNK)
        room = np.empty((len(scratch(len(halves))), CHUNK), dtype=np.uint16)
        for piece in pieces(len(halves)):
            half, bits = halves[piece], bits_NC[piece]
            if np.bitwise_and(half, 0x7FFF, out=room[: len(half)]).max() >= NOT_FINITE:
                raise PartInvalid("bf16: a value is NaN or infinite")
            np.left_shift(half, 16, out=bits, dtype=np.uint32, casting="unsafe")
