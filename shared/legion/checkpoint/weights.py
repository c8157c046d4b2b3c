"""The weights of all slices, in the order of the flat space, as the safetensors files that transformers loads.

A unit's tensors lie in the flat space as they do in the files, so writing a file is copying a stream of bytes and
leaving out the padding; memory is one piece and the digest's leaves, whatever the model.
"""

import json
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import numpy as np

from legion import digest
from legion.checkpoint.shards import byte_offset, read_exactly, reading
from legion.checkpoint.storage import new_file
from legion.ids import Rank, UnitId
from legion.layout import CHUNK, Layout
from legion.messages import ModelShape, TensorShape

PIECE: Final = 64 * CHUNK  # elements read at a time: 1 MiB


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of the checkpoint and the tensors in it, in order."""

    name: str
    tensors: tuple[TensorShape, ...]

    @property
    def size_bytes(self) -> int:
        """Of the tensors, without the header."""
        return sum(4 * tensor.numel for tensor in self.tensors)


def weight_files(shape: ModelShape, file_bytes: int) -> tuple[WeightFile, ...]:
    """The model's tensors cut into files of at most `file_bytes`; a larger tensor has a file to itself."""
    groups: list[list[TensorShape]] = [[]]
    size_bytes = 0
    for tensor in (tensor for unit in shape.units for tensor in unit.tensors):
        if groups[-1] and size_bytes + 4 * tensor.numel > file_bytes:
            groups.append([])
            size_bytes = 0
        groups[-1].append(tensor)
        size_bytes += 4 * tensor.numel
    if len(groups) == 1:
        return (WeightFile("model.safetensors", tuple(groups[0])),)
    total = len(groups)
    return tuple(
        WeightFile(f"model-{number:05}-of-{total:05}.safetensors", tuple(group))
        for number, group in enumerate(groups, start=1)
    )


def index(files: Sequence[WeightFile]) -> dict[str, Any]:
    """model.safetensors.index.json: which file holds which tensor."""
    return {
        "metadata": {"total_size": sum(file.size_bytes for file in files)},
        "weight_map": {tensor.name: file.name for file in files for tensor in file.tensors},
    }


def write_weights(
    folder: Path, files: Sequence[WeightFile], shape: ModelShape, layout: Layout, slices: Mapping[int, Path]
) -> str:
    """Writes the files and returns the root of the digest over the whole flat space, padding included."""
    leaves: list[bytes] = []
    stream = _stream(shape, layout, slices, leaves)
    rest = memoryview(b"")
    for file in files:
        with new_file(folder / file.name) as sink:
            sink.write(_header(file))
            left = file.size_bytes
            while left:
                rest = rest or next(stream)
                sink.write(rest[:left])
                left, rest = max(0, left - len(rest)), rest[left:]
    # What is left of the stream is padding, which counts for the digest only.
    deque(stream, maxlen=0)
    return digest.root(leaves)


def _header(file: WeightFile) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in file.tensors:
        end = offset + 4 * tensor.numel
        table[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the format wants the tensors aligned
    return struct.pack("<Q", len(text)) + text


def _stream(shape: ModelShape, layout: Layout, slices: Mapping[int, Path], leaves: list[bytes]) -> Iterator[memoryview]:
    """The bytes of all tensors in order, in a buffer used again for each piece; `leaves` grows on the way."""
    buffer = np.empty(PIECE, np.float32)
    for number, unit in enumerate(shape.units):
        for rank in layout.ranks:
            bounds = layout.bounds(UnitId(number), rank)
            with reading(slices[rank]), slices[rank].open("rb", buffering=0) as file:
                _seek(file, layout, UnitId(number), rank)
                for start in range(bounds.start, bounds.stop, PIECE):
                    piece = buffer[: min(PIECE, bounds.stop - start)]
                    read_exactly(file, piece)
                    leaves.extend(digest.leaves(piece))
                    if start < unit.numel:
                        yield piece[: unit.numel - start].data.cast("B")


def _seek(file: FileIO, layout: Layout, unit: UnitId, rank: Rank) -> None:
    file.seek(byte_offset(0, layout.owned(rank), layout.slice_offset(unit, rank)))
