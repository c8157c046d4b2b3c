"""Going on with another set of members: a new member's slice file, put together from ranges of the old ones.

Invariant: the new file is a function of the old files and the two layouts; no tensor is ever decoded.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from legion.checkpoint.shards import TENSORS, SliceInfo, byte_offset, header, size_of
from legion.checkpoint.storage import PIECE_BYTES, Sink, Written, new_file
from legion.errors import CheckpointInvalid
from legion.ids import Rank
from legion.layout import Layout, moves
from legion.messages import CheckpointManifest

Fetch = Callable[[Rank, int, int], AsyncIterator[bytes]]
"""`fetch(rank, start, stop)` streams bytes [start, stop) of an old member's slice file, an HTTP range for instance."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes of an old slice file and their place in the new one."""

    source: Rank
    source_offset: int
    target_offset: int
    length: int


def copies(manifest: CheckpointManifest, new: Layout, rank: Rank, tensors: int = len(TENSORS)) -> list[Copy]:
    """What fills `rank`'s new slice file behind its header, in the file's order, neighbours joined.

    Of the first `tensors` only; `build_slice` makes the others zero. Raises ConfigInvalid when `new` is not a layout of
    the checkpoint's model.
    """
    old = Layout(manifest.shape.sizes, manifest.shares)
    wanted = [move for move in moves(old, new) if move.target == rank]
    found: list[Copy] = []
    for tensor in range(tensors):
        for move in wanted:
            start = old.slice_offset(move.unit, move.source) + move.source_offset
            place = new.slice_offset(move.unit, rank) + move.target_offset
            copy = Copy(
                move.source,
                byte_offset(tensor, old.owned(move.source), start),
                byte_offset(tensor, new.owned(rank), place),
                4 * move.length,
            )
            _append(found, copy)
    return found


def _append(found: list[Copy], copy: Copy) -> None:
    if found:
        last = found[-1]
        if last.source == copy.source and last.source_offset + last.length == copy.source_offset:
            found[-1] = Copy(last.source, last.source_offset, last.target_offset, last.length + copy.length)
            return
    found.append(copy)


async def build_slice(path: Path, info: SliceInfo, elements: int, parts: Sequence[Copy], fetch: Fetch) -> Written:
    """Writes the slice file of a member that owns `elements` elements, filled by `parts` as `copies` lists them.

    Whole tensors that they leave out at the end are zero. Raises StorageFailed, CheckpointInvalid when a range comes
    with another length than asked for, and whatever `fetch` raises; then `path` is as it was.
    """
    with new_file(path) as sink:
        sink.write(header(info, elements))
        for copy in parts:
            if copy.target_offset != sink.size_bytes:
                raise ValueError(f"copies leave a gap at byte {sink.size_bytes}")
            await _fill(sink, copy, fetch)
        left = size_of(elements) - sink.size_bytes
        if left and left not in (4 * elements * missing for missing in range(1, len(TENSORS))):
            raise ValueError(f"copies give {sink.size_bytes} of {size_of(elements)} bytes")
        await asyncio.to_thread(_fill_up, sink, left)
        await asyncio.to_thread(sink.flush)
    return sink.written


def _fill_up(sink: Sink, left: int) -> None:
    zeros = bytes(min(left, PIECE_BYTES))
    for start in range(0, left, PIECE_BYTES):
        sink.write(zeros[: left - start])


async def _fill(sink: Sink, copy: Copy, fetch: Fetch) -> None:
    left = copy.length
    async for data in fetch(copy.source, copy.source_offset, copy.source_offset + copy.length):
        left -= len(data)
        if left < 0:
            break
        # Hashing and a slow disk must not hold up the agent's heartbeats.
        await asyncio.to_thread(sink.write, data)
    if left:
        problem = "more" if left < 0 else f"{left} bytes less"
        raise CheckpointInvalid(f"the slice of rank {copy.source} came with {problem} than asked for")
