"""Tensors as numpy arrays over the same memory."""

import ctypes

import numpy as np
from torch import Tensor, float32

from legion.codec.api import Floats


def array_of(tensor: Tensor) -> Floats:
    """A view of a contiguous float32 tensor in host memory, 1-D, valid until the tensor's storage is resized.

    Not `tensor.numpy()`, which forbids resizing the storage for ever: units free theirs after use.
    """
    if tensor.dtype != float32 or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(f"need contiguous float32 in host memory, got {tensor.dtype} on {tensor.device}")
    if not tensor.numel():
        return np.empty(0, dtype=np.float32)
    memory = (ctypes.c_float * tensor.numel()).from_address(tensor.data_ptr())
    memory.tensor = tensor  # type: ignore[attr-defined]  # keeps the storage alive as long as the view
    return np.ctypeslib.as_array(memory)
