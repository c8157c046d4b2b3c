"""theta_0: the weights every run starts from, the same bit for bit on every machine.

An element's value is a function of (seed, parameter name, index in the parameter) alone: SplitMix64 (Steele, Lea and
Flood, OOPSLA 2014) in counter form, its four 16-bit lanes added (a sum of four uniforms: bell-shaped, within 3.47
standard deviations), then one float32 multiplication. Everything before that is integer arithmetic, so nothing depends
on the processor, on the library, or on how the range is cut.

Tensors of one dimension are norms (`.weight`: 1) or biases (`.bias`: 0). All others have the model's
`initializer_range` as standard deviation; the projections that write into the residual stream have it divided by
sqrt(2 * layers), as in GPT-2 (Radford et al., 2019).
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from legion.config import RunConfig
from legion.messages import TensorShape, UnitShape
from legion.model import presets

_BLOCK: Final = 1 << 15  # elements drawn at a time: the temporaries stay in the second-level cache
_GOLDEN: Final = 0x9E3779B97F4A7C15
_LANES: Final = np.uint64(0x0000FFFF0000FFFF)
_MEAN: Final = 2 * 65535  # of the sum of four lanes
_DEVIATION: Final = math.sqrt((65536**2 - 1) / 3)  # of the same
_RESIDUAL: Final = (
    "o_proj.weight",
    "down_proj.weight",
    "c_proj.weight",
    "out_proj.weight",
    "attention.dense.weight",
    "dense_4h_to_h.weight",
)


@dataclass(frozen=True, slots=True)
class Theta0:
    """What theta_0 depends on, beside names and shapes."""

    seed: int
    deviation: float
    layers: int

    def scale_of(self, tensor: TensorShape) -> float:
        """The standard deviation of the tensor's elements."""
        if tensor.name.endswith(_RESIDUAL):
            return self.deviation / math.sqrt(2 * self.layers)
        return self.deviation


def theta_0(config: RunConfig) -> Theta0:
    """The start of this run."""
    _, settings = presets.resolved(config.model, 1)
    return Theta0(config.seed, float(settings["initializer_range"]), presets.layers(config.model))


def fill(out: NDArray[np.float32], unit: UnitShape, start: int, theta: Theta0) -> None:
    """Writes elements [start, start + out.size) of the unit's padded range into `out`; the padding is zero.

    `out` is one-dimensional and contiguous. Temporary memory is below 2 MB, whatever the range.
    """
    stop = start + out.size
    offset = 0
    for tensor in unit.tensors:
        first, last = max(start, offset), min(stop, offset + tensor.numel)
        if first < last:
            _fill_tensor(out[first - start : last - start], tensor, first - offset, theta)
        offset += tensor.numel
    out[max(0, offset - start) :] = 0


def _fill_tensor(out: NDArray[np.float32], tensor: TensorShape, start: int, theta: Theta0) -> None:
    if len(tensor.shape) < 2:
        out[:] = 0 if tensor.name.endswith("bias") else 1
        return
    key = int.from_bytes(hashlib.sha256(f"{theta.seed}:{tensor.name}".encode()).digest()[:8], "big")
    scale = np.float32(theta.scale_of(tensor) / _DEVIATION)
    for at in range(0, out.size, _BLOCK):
        _draw(out[at : at + _BLOCK], key, start + at, scale)


def _draw(out: NDArray[np.float32], key: int, start: int, scale: np.float32) -> None:
    state = np.arange(out.size, dtype=np.uint64)
    state *= np.uint64(_GOLDEN)
    state += np.uint64((key + (start + 1) * _GOLDEN) % (1 << 64))
    shifted = np.empty_like(state)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(state, np.uint64(shift), out=shifted)
        np.bitwise_xor(state, shifted, out=state)
        np.multiply(state, np.uint64(factor), out=state)
    np.right_shift(state, np.uint64(31), out=shifted)
    np.bitwise_xor(state, shifted, out=state)

    # Two lanes in each half of a word, then the halves: at most 4 * 65535, exact in float32.
    np.right_shift(state, np.uint64(16), out=shifted)
    np.bitwise_and(shifted, _LANES, out=shifted)
    np.bitwise_and(state, _LANES, out=state)
    state += shifted
    np.right_shift(state, np.uint64(32), out=shifted)
    state += shifted
    lanes = state.astype(np.uint32).view(np.int32)
    lanes -= _MEAN
    np.multiply(lanes.astype(np.float32), scale, out=out)
