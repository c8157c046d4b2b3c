"""`none`: float32 as it is, little-endian."""

import numpy as np

from legion.codec.api import FixedRate, Floats, require_chunks, require_size
from legion.layout import CHUNK


class Plain(FixedRate):
    name = "none"
    wire_id = 0
    chunk_bytes = CHUNK * 4
    lossy = False

    def encode(self, values: Floats) -> memoryview:
        """A view, not a copy: the caller must not change `values` until the bytes are sent."""
        require_chunks(values.size)
        return np.ascontiguousarray(values, dtype="<f4").view(np.uint8).data

    def decode(self, data: memoryview, out: Floats) -> None:
        require_size(self, data, out)
        np.copyto(out, np.frombuffer(data, dtype="<f4"))
