"""From the files of one layout to the slices of another: every element once, and nothing else."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion.codec.registry import any_by_name
from legion.errors import CheckpointInvalid
from legion.ids import ClusterId, Rank, RunId
from legion.layout import CHUNK, Bounds, Layout, spans
from legion.outer import reshard
from legion.outer.contribution import NOTHING, Part, Waiting
from legion.outer.state import StateInfo, kept_spans, opened, write_state

UNITS = (5000, 1, 9001)  # six chunks
TOTAL = 6 * CHUNK
WHOLE = Bounds(0, TOTAL)
ARRAYS = ("weights", "exp_avg", "exp_avg_sq", "anchor")
SHARES = st.lists(st.integers(1, 5), min_size=1, max_size=6).map(tuple)


def flat(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(TOTAL).astype(np.float32)


def cut(values: Any, layout: Layout, rank: Rank, span: Bounds = WHOLE) -> Any:
    found = [values[f.flat.start : f.flat.stop] for f in layout.fragments(rank, span)]
    return np.concatenate(found) if found else NOTHING


def waiting_of(layout: Layout, rank: Rank, codec: str, *, buffers: bool) -> dict[Bounds, Waiting]:
    """Of the first span a pending part, of the second nothing but its buffer."""
    found = {}
    for number, bounds in enumerate(spans(TOTAL, 2)):
        mine = cut(flat(10), layout, rank, bounds)
        if not mine.size:
            continue
        part = None
        if number == 0:
            encoder = any_by_name(codec)
            part = Part(4, encoder, bytes(encoder.encode(mine)), flush=False)
        buffer = cut(flat(11), layout, rank, bounds) if buffers else NOTHING
        moved = cut(flat(12), layout, rank, bounds) if buffers and part else NOTHING
        found[bounds] = Waiting(part, buffer, moved)
    return found


def kept(folder: Path, layout: Layout, rank: Rank, codec: str, *, buffers: bool) -> Path:
    waiting = waiting_of(layout, rank, codec, buffers=buffers)
    info = StateInfo(
        run_id=RunId("run-test"),
        config_digest="1" * 64,
        units=layout.units,
        shares=layout.shares,
        rank=rank,
        cluster=ClusterId("c1"),
        sent_as=ClusterId("c1"),
        anchor=4,
        final=False,
        steps=1,
        tokens=1,
        optimizer_steps=9,
        momentum=False,
        spans=kept_spans(waiting),
    )
    slices = {name: cut(flat(seed), layout, rank) for seed, name in enumerate(ARRAYS)}
    path = folder / str(rank)
    write_state(path, info, slices, list(waiting.values()), lasting=False)
    return path


def files_of(stack: ExitStack, folder: Path, layout: Layout, codec: str = "int4", *, buffers: bool = False) -> Any:
    return {
        rank: stack.enter_context(opened(kept(folder, layout, rank, codec, buffers=buffers))) for rank in layout.ranks
    }


@settings(max_examples=40)
@given(SHARES, SHARES, st.sampled_from(["none", "int4", "topk64", "onebit"]), st.booleans())
def test_any_layout_to_any_other(before: Any, after: Any, codec: str, buffers: bool) -> None:
    former, layout = Layout(UNITS, before), Layout(UNITS, after)
    with TemporaryDirectory() as name, ExitStack() as stack:
        files = files_of(stack, Path(name), former, codec, buffers=buffers)
        sent = np.zeros(TOTAL, np.float32)  # what the former members' parts say, decoded
        for rank in former.ranks:
            for fragments, state in (
                (former.fragments(rank, bounds), w)
                for bounds, w in waiting_of(former, rank, codec, buffers=buffers).items()
                if w.pending is not None
            ):
                values = np.empty(sum(len(f.flat) for f in fragments), np.float32)
                assert state.pending is not None
                state.pending.codec.decode(memoryview(state.pending.data), values)
                at = 0
                for f in fragments:
                    sent[f.flat.start : f.flat.stop] = values[at : at + len(f.flat)]
                    at += len(f.flat)
        for rank in layout.ranks:
            arrays = {name: np.full(layout.owned(rank), np.nan, np.float32) for name in ARRAYS}
            reshard.arrays(files, layout, rank, arrays)
            for seed, array in enumerate(arrays.values()):
                assert np.array_equal(array, cut(flat(seed), layout, rank))
            for number, (bounds, state) in enumerate(sorted(reshard.waiting(files, layout, rank).items(), key=_start)):
                first = bounds == spans(TOTAL, 2)[0]
                assert (state.pending is not None) == first, number
                if state.pending is not None:
                    assert (state.pending.round, state.pending.codec.name, state.pending.flush) == (4, "none", False)
                    values = np.frombuffer(state.pending.data, np.float32)
                    assert np.array_equal(values, cut(sent, layout, rank, bounds))
                assert np.array_equal(state.buffer, cut(flat(11), layout, rank, bounds) if buffers else NOTHING)
                assert np.array_equal(
                    state.moved, cut(flat(12), layout, rank, bounds) if buffers and first else NOTHING
                )


def _start(item: tuple[Bounds, Waiting]) -> int:
    return item[0].start


def test_files_of_some_members_are_no_point(tmp_path: Path) -> None:
    former, layout = Layout(UNITS, (1, 1)), Layout(UNITS, (1,))
    with ExitStack() as stack:
        files = files_of(stack, tmp_path, former)
        del files[Rank(1)]
        with pytest.raises(CheckpointInvalid, match="not those of all members of one plan"):
            reshard.waiting(files, layout, Rank(0))
