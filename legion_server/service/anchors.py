"""Anchors as files: theta_round as the slice of a layout of one member, made of the one before, piece by piece.

Invariant: a file appears whole or not at all, under the number of its round. Where the run has an outer momentum it is
anchor state and takes the place of the first moment; moments are holes otherwise. Memory is a window, not the model.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from legion import digest
from legion.checkpoint.shards import (
    SliceInfo,
    byte_offset,
    header,
    read_exactly,
    read_info,
    reading,
    size_of,
)
from legion.checkpoint.storage import storing, sync_folder
from legion.config import RunConfig
from legion.errors import CheckpointInvalid
from legion.layout import CHUNK, Bounds, Fragment, padded
from legion.messages import ModelShape
from legion.model.init import fill, theta_0
from legion.outer.log import Anchor, OuterStep, apply
from legion.rounds import RoundRecord

WINDOW: Final = 1024 * CHUNK  # elements at work at a time: 16 MiB, and as much for a momentum
WEIGHTS, MOMENTUM = 0, 1  # tensors of the slice file
Floats = NDArray[np.float32]


def begin(path: Path, info: SliceInfo, shape: ModelShape, config: RunConfig) -> list[bytes]:
    """Write theta_0; returns its leaves."""
    theta, total = theta_0(config), total_of(shape)
    leaves: list[bytes] = []
    with _new(path, info, total) as file:
        for unit in shape.units:
            for start in range(0, padded(unit.numel), WINDOW):
                values = np.empty(min(WINDOW, padded(unit.numel) - start), np.float32)
                fill(values, unit, start, theta)
                file.write(values.data.cast("B"))
                leaves += digest.leaves(values)
    return leaves


def advance(
    source: Path, target: Path, info: SliceInfo, record: RoundRecord, config: RunConfig, blobs: Mapping[str, Path]
) -> list[bytes]:
    """Write theta_{round+1}, made of `source` and the round's updates; returns its leaves.

    PartInvalid for an update that cannot be decoded; CheckpointInvalid for a damaged source.
    """
    _, total = read_info(source)
    outer = OuterStep(config.rounds.outer_lr, config.rounds.outer_momentum)
    leaves: list[bytes] = []
    updates = {name: _mapped(path) for name, path in blobs.items()}
    with reading(source), source.open("rb", buffering=0) as old, _new(target, info, total) as new:
        for start in range(0, total, WINDOW):
            window = Bounds(start, min(total, start + WINDOW))
            momentum = _read(old, MOMENTUM, total, window) if outer.momentum else None
            anchor = Anchor(_read(old, WEIGHTS, total, window), momentum)
            apply(anchor, record, _within(window), updates.__getitem__, outer)
            _write(new, WEIGHTS, total, window, anchor.values)
            if momentum is not None:
                _write(new, MOMENTUM, total, window, momentum)
            leaves += digest.leaves(anchor.values)
    return leaves


def leaves_of(path: Path) -> list[bytes]:
    """Of the weights in the file."""
    _, total = read_info(path)
    leaves: list[bytes] = []
    with reading(path), path.open("rb", buffering=0) as file:
        for start in range(0, total, WINDOW):
            leaves += digest.leaves(_read(file, WEIGHTS, total, Bounds(start, min(total, start + WINDOW))))
    return leaves


def usable(path: Path, info: SliceInfo, shape: ModelShape) -> bool:
    """Whether the file is this run's anchor after so many steps."""
    try:
        found, elements = read_info(path)
    except CheckpointInvalid:
        return False
    same = found.model_copy(update={"tokens": info.tokens, "epoch": info.epoch}) == info
    return same and elements == total_of(shape)


def total_of(shape: ModelShape) -> int:
    """Elements of the whole flat space."""
    return sum(padded(size) for size in shape.sizes)


def _within(window: Bounds) -> Callable[[Bounds], tuple[Fragment, ...]]:
    def holds(span: Bounds) -> tuple[Fragment, ...]:
        met = span.meet(window)
        return (Fragment(met, met.start - window.start, met.start - span.start),) if len(met) else ()

    return holds


def _mapped(path: Path) -> memoryview:
    """The file in memory, page by page as it is read; freed with the last view of it, which an error may hold."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read(file: FileIO, tensor: int, total: int, window: Bounds) -> Floats:
    values = np.empty(len(window), np.float32)
    file.seek(byte_offset(tensor, total, window.start))
    read_exactly(file, values)
    return values


def _write(file: FileIO, tensor: int, total: int, window: Bounds, values: Floats) -> None:
    file.seek(byte_offset(tensor, total, window.start))
    view = values.data.cast("B")
    while view:
        view = view[file.write(view) :]


@contextmanager
def _new(path: Path, info: SliceInfo, elements: int) -> Iterator[FileIO]:
    """A slice file that stands at its first weight; what is not written stays a hole."""
    partial = path.with_name(f".{path.name}.partial")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb", buffering=0) as file:
                file.write(header(info, elements))
                yield file
                file.truncate(size_of(elements))
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)
