"""A member's slice and all that waits beside it, put together from what the members of another layout kept.

Every element comes once, from the one who had it: see `layout.moves`. What is encoded for a former owner's part of a
span (its pending contribution) is decoded, and goes on as plain values.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from legion.codec.api import Floats
from legion.codec.registry import any_by_name
from legion.errors import CheckpointInvalid
from legion.ids import Rank
from legion.layout import Bounds, Fragment, Layout, moves
from legion.outer.contribution import NOTHING, Part, Waiting
from legion.outer.state import StateFile

PLAIN: Final = any_by_name("none")

Files = Mapping[Rank, StateFile]  # of every rank of the former layout


def arrays(files: Files, layout: Layout, rank: Rank, into: Mapping[str, Floats]) -> None:
    """Fills each array of `into` by its name in the files; all are as long as the slice of `rank`."""
    former = _layout_of(files)
    for move in moves(former, layout):
        if move.target != rank:
            continue
        start = former.slice_offset(move.unit, move.source) + move.source_offset
        target = layout.slice_offset(move.unit, rank) + move.target_offset
        for name, array in into.items():
            files[move.source].read_range(name, start, array[target : target + move.length])


def waiting(files: Files, layout: Layout, rank: Rank) -> dict[Bounds, Waiting]:
    """By span, as far as the slice of `rank` meets it."""
    former = _layout_of(files)
    found: dict[Bounds, dict[Rank, Waiting]] = {}
    for source, file in files.items():
        for bounds, state in file.waiting().items():
            found.setdefault(bounds, {})[source] = state
    return {
        bounds: _joined(states, {r: former.fragments(r, bounds) for r in states}, layout.fragments(rank, bounds))
        for bounds, states in found.items()
        if layout.fragments(rank, bounds)
    }


def _layout_of(files: Files) -> Layout:
    layouts = {file.info.layout for file in files.values()}
    if len(layouts) != 1 or {file.info.rank for file in files.values()} != set(next(iter(layouts)).ranks):
        raise CheckpointInvalid("the files of a restore point are not those of all members of one plan")
    return layouts.pop()


def _joined(
    states: Mapping[Rank, Waiting], spans: Mapping[Rank, Sequence[Fragment]], mine: Sequence[Fragment]
) -> Waiting:
    """What the former owners of my part of a span had waiting there, of `spans`; some may have had nothing."""
    numel = sum(len(fragment.flat) for fragment in mine)
    parts = {rank: state.pending for rank, state in states.items() if state.pending is not None}
    pending = None
    if parts:
        values = {rank: _decoded(part, sum(len(f.flat) for f in spans[rank])) for rank, part in parts.items()}
        data = bytes(PLAIN.encode(_carried(values, spans, mine, numel)))
        one = next(iter(parts.values()))
        pending = Part(one.round, PLAIN, data, one.flush)
    buffers = {rank: state.buffer for rank, state in states.items() if state.buffer.size}
    moved = {rank: state.moved for rank, state in states.items() if state.moved.size}
    return Waiting(
        pending,
        _carried(buffers, spans, mine, numel) if buffers else NOTHING,
        _carried(moved, spans, mine, numel) if moved else NOTHING,
    )


def _decoded(part: Part, numel: int) -> Floats:
    values = np.empty(numel, np.float32)
    part.codec.decode(memoryview(part.data), values)
    return values


def _carried(
    values: Mapping[Rank, Floats], spans: Mapping[Rank, Sequence[Fragment]], mine: Sequence[Fragment], numel: int
) -> Floats:
    """Values in the order of the former owners' fragments, in that of `mine`; 0 where nobody had any."""
    out, to = np.zeros(numel, np.float32), 0
    for target in mine:
        for rank, array in values.items():
            at = 0
            for source in spans[rank]:
                common = source.flat.meet(target.flat)
                if len(common):
                    there, here = to + common.start - target.flat.start, at + common.start - source.flat.start
                    out[there : there + len(common)] = array[here : here + len(common)]
                at += len(source.flat)
        to += len(target.flat)
    return out
