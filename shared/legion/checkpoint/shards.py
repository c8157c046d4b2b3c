"""One member's slice of a checkpoint: a safetensors file with its weights and moments.

Three F32 tensors of one dimension, `weights`, `exp_avg`, `exp_avg_sq`, each the concatenation of the member's parts in
unit order (`Layout.slice_offset`). Invariant: the header always takes 4,096 bytes (the format allows trailing spaces),
so the place of every element follows from the layout alone, and a slice can be built or read by byte ranges. Agents,
which do that, are spared numpy's 14 MB.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, Field, ValidationError

from legion.checkpoint.storage import Sink, Written, new_file
from legion.errors import CheckpointInvalid
from legion.ids import Epoch, Rank, RunId

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Parts = Mapping[str, Sequence[NDArray[np.float32]]]

HEADER_BYTES: Final = 4096
TENSORS: Final = ("weights", "exp_avg", "exp_avg_sq")


class SliceInfo(BaseModel, frozen=True, extra="forbid"):
    """Whose slice of which checkpoint a file holds."""

    run_id: RunId = Field(max_length=256)
    step: int = Field(ge=0)
    rank: Rank = Field(ge=0)
    epoch: Epoch = Field(ge=0)
    tokens: int = Field(ge=0)  # committed by the run so far


def size_of(elements: int) -> int:
    """Bytes of the file of a member that owns `elements` elements."""
    return HEADER_BYTES + 4 * len(TENSORS) * elements


def byte_offset(tensor: int, elements: int, element: int) -> int:
    """Where `element` of the `tensor`-th of TENSORS lies in a file of `elements` per tensor."""
    return HEADER_BYTES + 4 * (tensor * elements + element)


def header(info: SliceInfo, elements: int) -> bytes:
    """The file's first HEADER_BYTES bytes."""
    table: dict[str, Any] = {"__metadata__": {name: str(value) for name, value in info.model_dump().items()}}
    for index, name in enumerate(TENSORS):
        offsets = [4 * index * elements, 4 * (index + 1) * elements]
        table[name] = {"dtype": "F32", "shape": [elements], "data_offsets": offsets}
    text = json.dumps(table, separators=(",", ":")).encode()
    return struct.pack("<Q", HEADER_BYTES - 8) + text.ljust(HEADER_BYTES - 8)


def write_slice(path: Path, info: SliceInfo, parts: "Parts") -> Written:
    """Writes the slice, its tensors given as their parts in unit order (1-D float32, empty ones allowed).

    Nothing is copied; the hash is taken on the way. Raises StorageFailed and leaves `path` as it was.
    """
    sizes = {name: sum(part.size for part in parts[name]) for name in TENSORS}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"the tensors of a slice have one size, got {sizes}")
    with new_file(path) as sink:
        sink.write(header(info, sizes["weights"]))
        for name in TENSORS:
            for part in parts[name]:
                _write_part(sink, part)
    return sink.written


def _write_part(sink: Sink, part: "NDArray[np.float32]") -> None:
    if part.dtype.str != "<f4" or part.ndim != 1:
        raise ValueError(f"parts of a slice are 1-D float32, got {part.ndim}-D {part.dtype}")
    if part.size:  # an empty array has no bytes to view
        sink.write((part if part.flags.c_contiguous else part.copy()).data.cast("B"))


def read_info(path: Path) -> tuple[SliceInfo, int]:
    """Whose slice it is and how many elements each tensor has, the file's length checked against both.

    Raises CheckpointInvalid for anything that `write_slice` would not have written.
    """
    with reading(path), path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
        size_bytes = file.seek(0, os.SEEK_END)
    elements, rest = divmod(size_bytes - HEADER_BYTES, 4 * len(TENSORS))
    if elements < 0 or rest:
        raise CheckpointInvalid(f"{path} is not a whole slice: {size_bytes} bytes")
    info = _parse(path, raw)
    if header(info, elements) != raw:
        raise CheckpointInvalid(f"{path} has a header that does not fit its {size_bytes} bytes")
    return info, elements


def _parse(path: Path, raw: bytes) -> SliceInfo:
    try:
        table = json.loads(raw[8:])
        return SliceInfo.model_validate_strings(table["__metadata__"])
    except (ValueError, TypeError, KeyError, RecursionError, ValidationError) as error:
        raise CheckpointInvalid(f"{path} is not a slice of a Legion checkpoint") from error


def read_slice(path: Path, into: "Parts") -> SliceInfo:
    """Fills the given parts (contiguous 1-D float32, in unit order) from the file, without a second copy in memory.

    Raises CheckpointInvalid, before anything is read, when the sizes differ.
    """
    info, elements = read_info(path)
    for name in TENSORS:
        wanted = sum(part.size for part in into[name])
        if wanted != elements:
            raise CheckpointInvalid(f"{path} holds {elements} elements of {name}, the plan asks for {wanted}")
    with reading(path), path.open("rb", buffering=0) as file:
        file.seek(HEADER_BYTES)
        for name in TENSORS:
            for part in into[name]:
                read_exactly(file, part)
    return info


def read_exactly(file: FileIO, out: "NDArray[np.float32]") -> None:
    """Fills `out` from where the file stands; CheckpointInvalid when it ends before."""
    if not out.size:
        return
    view = out.data.cast("B")
    while view:
        count = file.readinto(view)
        if not count:
            raise CheckpointInvalid(f"{file.name} ends {len(view)} bytes early")
        view = view[count:]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """The operating system's refusals become CheckpointInvalid, naming `path`."""
    try:
        yield
    except OSError as error:
        raise CheckpointInvalid(f"{path} cannot be read: {error.strerror or error}") from error
