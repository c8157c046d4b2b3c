"""The same bytes and the same floats on every processor: what is decoded enters digests, encodings are compared."""

import os
import subprocess
import sys

import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

DIGESTS = """
import hashlib
import sys
import numpy as np
from legion.codec.registry import ALL, SPARSE
from legion.layout import CHUNK
if "torch" in sys.argv:
    import torch
    torch.ones(9).sum()
# Integers and one rounding each: nothing here depends on the processor.
whole = np.random.default_rng(7).integers(-(1 << 20), 1 << 20, 70 * CHUNK)
values = np.multiply(whole, np.float32(2.0**-20), dtype=np.float32)
values = values * values * values * np.repeat(np.float32(2) ** np.arange(-35, 35, dtype=np.float32), CHUNK)
values[: CHUNK // 2] = 0
values[CHUNK : 2 * CHUNK] = np.sign(whole[:CHUNK])
values[3 * CHUNK] = 1e30
for codec in (*ALL, *SPARSE):
    data = bytes(codec.encode(values))
    out = np.empty_like(values)
    codec.decode(memoryview(data), out)
    digests = (hashlib.sha256(found).hexdigest()[:16] for found in (data, out.astype("<f4").tobytes()))
    print(codec.name, *digests)
"""

# Pinned: other bytes would be another wire format, other floats another anchor.
PINNED = """
none eaee1fa93e8955d0 eaee1fa93e8955d0
bf16 5936f1644633d5b1 9d447739a2220804
int8 0c6046d671c51bb4 8036b91cb0e0ddca
int4 8c79742c6e6f33d5 cf23ec4d92d4ab24
int2 688788d0f0139717 e65dbdaab3ac2d8c
onebit 86f6a18c921ad68e 95611b38e24c3aa6
topk256 73084e6c7c4a0d3e 9f6ec46a6eee9135
topk64 5be67a19b42e00e5 049859a3bb533f60
topk240x4 a4048222b37be4c0 9e947ce3d20da7c7
"""

DISPATCHED = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]  # numpy refuses to disable others
LOWER = {f"numpy below {name}": " ".join(DISPATCHED[at:]) for at, name in enumerate(DISPATCHED)}
SETTINGS = {
    "as it is": {},
    "torch default": {"ATEN_CPU_CAPABILITY": "default"},
    "torch avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "torch avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
    **{name: {"NPY_DISABLE_CPU_FEATURES": features} for name, features in LOWER.items()},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_processor_gives_the_same_bytes_and_floats(name: str) -> None:
    argv = [sys.executable, "-c", DIGESTS, *(["torch"] if name.startswith("torch") else [])]
    done = subprocess.run(argv, env=os.environ | SETTINGS[name], capture_output=True, text=True, check=True)
    assert done.stdout.split() == PINNED.split()
