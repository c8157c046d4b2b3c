"""A member's local state as one file: what it needs to go on with its own work after a restart.

A safetensors file. Invariants: its header is a function of `StateInfo`, so every size and place follows from that;
its last tensor is the SHA-256 of all bytes before it; arrays are streamed, never copied as a whole.
"""

import hashlib
import itertools
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from legion.checkpoint.shards import reading
from legion.checkpoint.storage import PIECE_BYTES, Sink, Written, new_file
from legion.codec.api import Floats
from legion.codec.registry import any_by_wire_id
from legion.config import Sha256
from legion.errors import CheckpointInvalid, LegionError, PartInvalid
from legion.ids import ClusterId, Rank, RunId
from legion.layout import Bounds, Layout
from legion.outer.contribution import NOTHING, Part, Waiting
from legion.outer.outstanding import Former
from legion.outer.point import Standing

MOST_HEADER_BYTES: Final = 1 << 20  # 64 spans take some 20 KiB
PIECE: Final = PIECE_BYTES // 4  # elements at work at a time
WEAR_BYTES_PER_S: Final = 1_000_000  # that this may write of a volunteer's disk, over time: 86 GB a day
Count = Annotated[int, Field(ge=0, le=2**62)]


class KeptPart(BaseModel, frozen=True, extra="forbid"):
    """A part that is not settled."""

    round: Count
    codec: Count  # wire id
    size_bytes: Count
    flush: bool


class KeptSpan(BaseModel, frozen=True, extra="forbid"):
    """What waits of one span; sizes in elements."""

    start: Count
    stop: Count
    buffer: Count
    moved: Count
    part: KeptPart | None


class StateInfo(BaseModel, frozen=True, extra="forbid"):
    """Whose state a file holds, and of when."""

    version: Literal[1] = 1
    run_id: Annotated[RunId, Field(max_length=256)]
    config_digest: Sha256
    units: Annotated[tuple[Annotated[int, Field(ge=1, le=2**62)], ...], Field(min_length=1)]  # see Layout
    shares: Annotated[tuple[Annotated[int, Field(ge=1, le=2**62)], ...], Field(min_length=1)]
    rank: Annotated[Rank, Field(ge=0)]
    cluster: Annotated[ClusterId, Field(max_length=256)]
    sent_as: Annotated[ClusterId, Field(max_length=256)]  # see Former
    anchor: Count
    final: bool
    steps: Count  # since the newest contribution: for people
    tokens: Count
    optimizer_steps: Count  # that the moments stand for
    momentum: bool  # whether the anchor has one
    spans: tuple[KeptSpan, ...]
    standing: Standing | None = None  # of a restore point

    @property
    def former(self) -> Former:
        return Former(self.cluster, self.sent_as, self.anchor, self.final)

    @property
    def layout(self) -> Layout:
        """ConfigInvalid when there is none like that."""
        return Layout(self.units, self.shares)

    def same_slice(self, layout: Layout, rank: Rank) -> bool:
        """Whether the member `rank` of another cluster owns the same elements, in the same order."""
        if self.units != layout.units:
            return False
        whole = Bounds(0, layout.total)
        return self.layout.fragments(self.rank, whole) == layout.fragments(rank, whole)


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where an array lies, in bytes behind the header."""

    dtype: Literal["F32", "U8"]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        return (self.stop - self.start) // (4 if self.dtype == "F32" else 1)


def is_due(anchor: int, kept_anchor: int, every: int, since_s: float, size_bytes: int) -> bool:
    """Whether to write the state at this anchor, `since_s` after the last time.

    Not more often than the run makes checkpoints, for what is older can be caught up from one; and only as often as
    is polite to the disk of a volunteer, whose life is some hundred times its size: see WEAR_BYTES_PER_S.
    """
    return anchor - kept_anchor >= every and since_s * WEAR_BYTES_PER_S >= size_bytes


def kept_spans(waiting: Mapping[Bounds, Waiting]) -> tuple[KeptSpan, ...]:
    """For StateInfo, in the order of `waiting`."""
    return tuple(
        KeptSpan(
            start=bounds.start,
            stop=bounds.stop,
            buffer=waits.buffer.size,
            moved=waits.moved.size,
            part=_kept_part(waits.pending),
        )
        for bounds, waits in waiting.items()
    )


def _kept_part(part: Part | None) -> KeptPart | None:
    if part is None:
        return None
    return KeptPart(round=part.round, codec=part.codec.wire_id, size_bytes=len(part.data), flush=part.flush)


def table(info: StateInfo) -> dict[str, Tensor]:
    """Every array of the file, in its order. ConfigInvalid when the layout is none."""
    owned = info.layout.owned(info.rank)
    sizes: list[tuple[str, Literal["F32", "U8"], int]] = [
        (name, "F32", owned) for name in ("weights", "exp_avg", "exp_avg_sq", "anchor")
    ]
    if info.momentum:
        sizes.append(("momentum", "F32", owned))
    for number, span in enumerate(info.spans):
        sizes += [(f"buffer.{number}", "F32", span.buffer), (f"moved.{number}", "F32", span.moved)]
        sizes.append((f"part.{number}", "U8", span.part.size_bytes if span.part else 0))
    sizes.append(("sha256", "U8", hashlib.sha256().digest_size))
    ends = itertools.accumulate(size * (4 if dtype == "F32" else 1) for _, dtype, size in sizes)
    starts = [0]
    found = {}
    for (name, dtype, _), end in zip(sizes, ends, strict=True):
        found[name] = Tensor(dtype, starts[-1], end)
        starts.append(end)
    return found


def header(info: StateInfo) -> bytes:
    """The file's first bytes, their number first."""
    names: dict[str, Any] = {"__metadata__": {"state": info.model_dump_json()}}
    for name, tensor in table(info).items():
        names[name] = {
            "dtype": tensor.dtype,
            "shape": [tensor.elements],
            "data_offsets": [tensor.start, tensor.stop],
        }
    text = json.dumps(names, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text


def size_of(info: StateInfo) -> int:
    """Bytes of the file."""
    return len(header(info)) + table(info)["sha256"].stop


def write_state(
    path: Path, info: StateInfo, slices: Mapping[str, Floats], waiting: Sequence[Waiting], *, lasting: bool = True
) -> Written:
    """`slices`: weights, moments and anchor by their names in `table`; `waiting` in the order of `info.spans`.

    `lasting`: also through a power cut. Raises StorageFailed and leaves `path` as it was.
    """
    arrays: dict[str, Floats | bytes] = dict(slices)
    for number, waits in enumerate(waiting):
        arrays[f"buffer.{number}"], arrays[f"moved.{number}"] = waits.buffer, waits.moved
        arrays[f"part.{number}"] = waits.pending.data if waits.pending else b""
    with new_file(path, lasting=lasting) as sink:
        sink.write(header(info))
        for name, tensor in table(info).items():
            if name != "sha256":
                _write(sink, name, tensor, arrays[name])
        sink.write(bytes.fromhex(sink.written.sha256))
    return sink.written


def _write(sink: Sink, name: str, tensor: Tensor, array: Floats | bytes) -> None:
    view = memoryview(array) if isinstance(array, bytes) else array.data
    if view.nbytes != tensor.stop - tensor.start or not view.c_contiguous:
        raise ValueError(f"{name} of {view.nbytes} bytes, of {tensor.stop - tensor.start} in one piece")
    if view.nbytes:  # an empty view cannot be cast
        sink.write(view.cast("B"))


class Source(Protocol):
    """Where a state is read from."""

    def seek(self, offset: int, /) -> int: ...

    def read(self, size: int, /) -> bytes:
        """At most so many; none at the end."""


class StateFile:
    """An open state, its header checked; see `opened`."""

    def __init__(self, path: Path, file: Source, info: StateInfo) -> None:
        self.info = info
        self._path = path
        self._file = file
        self._table = table(info)
        self._start = len(header(info))

    def check(self) -> None:
        """Reads all of it. CheckpointInvalid when it is not what was written."""
        digest = hashlib.sha256()
        end = self._start + self._table["sha256"].start
        with reading(self._path):
            self._file.seek(0)
            for at in range(0, end, PIECE_BYTES):
                digest.update(self._bytes(min(PIECE_BYTES, end - at)))
            if self._bytes(digest.digest_size) != digest.digest():
                raise CheckpointInvalid(f"{self._path} was damaged on the disk")

    def read(self, name: str, out: Floats) -> None:
        """Fills `out`, a contiguous array as long as the one in the file, without another copy."""
        self._require_size(name, out)
        for start in range(0, out.size, PIECE):
            self._read_at(name, start, out[start : start + PIECE])

    def read_range(self, name: str, start: int, out: Floats) -> None:
        """Fills `out` with the array's elements from `start` on."""
        if start + out.size > self._table[name].elements:
            raise CheckpointInvalid(f"{self._path} has no {out.size} elements of {name} from {start} on")
        for at in range(0, out.size, PIECE):
            self._read_at(name, start + at, out[at : at + PIECE])

    def add_difference(self, out: Floats) -> None:
        """To `out`, theta of some anchor, is added what the weights were ahead of theirs."""
        self._require_size("weights", out)
        rooms = np.empty(PIECE, np.float32), np.empty(PIECE, np.float32)
        for start in range(0, out.size, PIECE):
            target = out[start : start + PIECE]
            weights, anchor = (room[: target.size] for room in rooms)
            self._read_at("weights", start, weights)
            self._read_at("anchor", start, anchor)
            np.add(target, np.subtract(weights, anchor, out=weights), out=target)

    def _require_size(self, name: str, out: Floats) -> None:
        if out.size != self._table[name].elements:
            raise CheckpointInvalid(
                f"{self._path} holds {self._table[name].elements} elements of {name}, not {out.size}"
            )

    def waiting(self) -> dict[Bounds, Waiting]:
        """CheckpointInvalid when a part is of a codec that is not known here."""
        return {Bounds(span.start, span.stop): self._waiting(number) for number, span in enumerate(self.info.spans)}

    def _waiting(self, number: int) -> Waiting:
        part = self.info.spans[number].part
        pending = None
        if part is not None:
            try:
                codec = any_by_wire_id(part.codec)
            except PartInvalid as error:
                raise CheckpointInvalid(f"{self._path} holds a part that cannot be read: {error}") from error
            with reading(self._path):
                self._file.seek(self._start + self._table[f"part.{number}"].start)
                pending = Part(part.round, codec, self._bytes(part.size_bytes), part.flush)
        return Waiting(pending, self._floats(f"buffer.{number}"), self._floats(f"moved.{number}"))

    def _floats(self, name: str) -> Floats:
        size = self._table[name].elements
        if not size:
            return NOTHING
        values = np.empty(size, np.float32)
        self.read(name, values)
        return values

    def _read_at(self, name: str, element: int, out: Floats) -> None:
        with reading(self._path):
            self._file.seek(self._start + self._table[name].start + 4 * element)
            out.view(np.uint8)[:] = np.frombuffer(self._bytes(out.nbytes), np.uint8)

    def _bytes(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = self._file.read(count - len(data))
            if not more:
                raise CheckpointInvalid(f"{self._path} ends {count - len(data)} bytes early")
            data += more
        return bytes(data)


@contextmanager
def opened(path: Path) -> Iterator[StateFile]:
    """CheckpointInvalid for a file whose header `write_state` would not have written, or of another size."""
    with reading(path):
        file = path.open("rb", buffering=0)
    with file:
        found = of_file(path, file)
        with reading(path):
            size_bytes = os.fstat(file.fileno()).st_size
        if size_of(found.info) != size_bytes:
            raise CheckpointInvalid(f"{path} is not a whole state: {size_bytes} bytes")
        yield found


def of_file(path: Path, file: Source) -> StateFile:
    """As `opened`, of a file of any length; `path` is for people."""
    with reading(path):
        file.seek(0)
        raw = file.read(8)
        size = struct.unpack("<Q", raw)[0] if len(raw) == 8 else 0
        raw += file.read(min(size, MOST_HEADER_BYTES))
    return StateFile(path, file, _parse(path, raw))


def _parse(path: Path, raw: bytes) -> StateInfo:
    try:
        info = StateInfo.model_validate_json(json.loads(raw[8:])["__metadata__"]["state"])
        if info.rank >= len(info.shares) or header(info) != raw:
            raise ValueError("another header")
    except (ValueError, TypeError, KeyError, RecursionError, ValidationError, LegionError) as error:
        raise CheckpointInvalid(f"{path} is not the local state of a Legion worker") from error
    return info
