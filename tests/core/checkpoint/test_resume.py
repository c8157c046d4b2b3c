"""Slices for other members, built from byte ranges, are the slices those members would have written."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from legion.checkpoint.resume import Copy, Fetch, build_slice, copies
from legion.checkpoint.shards import HEADER_BYTES, SliceInfo, size_of
from legion.errors import CheckpointInvalid, ConfigInvalid, ServerUnreachable, StorageFailed
from legion.ids import Epoch, Rank, RunId
from legion.layout import CHUNK, Layout, padded
from legion.messages import CheckpointManifest, ModelShape, TensorShape, UnitShape

INFO = SliceInfo(run_id=RunId("run-test"), step=7, rank=Rank(0), epoch=Epoch(2), tokens=1234)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def from_files(slices: dict[int, Path], piece: int = 999) -> Fetch:
    """Ranges of files, in pieces of an awkward size, as a network would bring them."""

    async def fetch(rank: Rank, start: int, stop: int) -> AsyncIterator[bytes]:
        data = slices[rank].read_bytes()[start:stop]
        for at in range(0, len(data), piece):
            await asyncio.sleep(0)
            yield data[at : at + piece]

    return fetch


@pytest.mark.parametrize("old", [(1,), (1, 1), (3, 1, 2), (1, 1, 1, 1, 1, 1, 1)])
@pytest.mark.parametrize("new", [(1,), (2, 3), (1, 1, 1), (5, 1, 1, 2, 1, 1, 9)])
async def test_rebuilt_slices_are_those_the_new_members_would_have_written(
    cut: Any, config: Any, tmp_path: Path, old: tuple[int, ...], new: tuple[int, ...]
) -> None:
    before, after = cut(config(), old, "old"), cut(config(), new, "new")
    for rank in after.layout.ranks:
        found = copies(before.manifest, after.layout, rank)
        path = tmp_path / f"built-{rank}"
        written = await build_slice(
            path, after.info(rank), after.layout.owned(rank), found, from_files(before.slices, piece=50_000)
        )
        assert path.read_bytes() == after.slices[rank].read_bytes()
        assert written.sha256 == after.manifest.slices[rank].sha256
        assert written.size_bytes == after.manifest.slices[rank].size_bytes


@pytest.mark.parametrize("tensors", [1, 2])
@pytest.mark.parametrize("old", [(1,), (3, 1, 2)])
@pytest.mark.parametrize("new", [(1,), (5, 1, 1, 2, 1, 1, 9)])
async def test_what_is_known_to_be_zero_is_not_fetched(
    cut: Any, config: Any, tmp_path: Path, old: tuple[int, ...], new: tuple[int, ...], tensors: int
) -> None:
    before, after = cut(config(), old, "old"), cut(config(), new, "new")
    for rank in after.layout.ranks:
        elements = after.layout.owned(rank)
        found = copies(before.manifest, after.layout, rank, tensors)
        assert sum(copy.length for copy in found) == 4 * tensors * elements
        path = tmp_path / f"built-{rank}"
        await build_slice(path, after.info(rank), elements, found, from_files(before.slices, piece=50_000))
        whole = after.slices[rank].read_bytes()
        rest = 4 * (3 - tensors) * elements
        assert path.read_bytes() == whole[: len(whole) - rest] + bytes(rest)


async def test_the_same_members_get_their_own_slices_in_one_copy(cut: Any, config: Any) -> None:
    made = cut(config(), (2, 1))
    for rank in made.layout.ranks:
        body = size_of(made.layout.owned(rank)) - HEADER_BYTES
        assert copies(made.manifest, made.layout, rank) == [Copy(rank, HEADER_BYTES, HEADER_BYTES, body)]


SHARES = st.lists(st.integers(1, 9), min_size=1, max_size=7).map(tuple)


@given(st.lists(st.sampled_from([1, 4096, 4097, 50_000]), min_size=1, max_size=9), SHARES, SHARES)
def test_copies_fill_the_new_file_without_gap_or_overlap(
    units: list[int], old_shares: tuple[int, ...], new_shares: tuple[int, ...]
) -> None:
    chunks = sum(padded(n) for n in units) // CHUNK
    assume(max(len(old_shares), len(new_shares)) <= chunks)
    shape = ModelShape(
        units=tuple(
            UnitShape(name=f"{i}", tensors=(TensorShape(name=f"{i}", shape=(n,)),)) for i, n in enumerate(units)
        )
    )
    manifest = CheckpointManifest(
        run_id=RunId("r"), epoch=Epoch(1), step=1, tokens=1, shares=old_shares, shape=shape, config_digest="0" * 64
    )
    old, new = Layout(tuple(units), old_shares), Layout(tuple(units), new_shares)
    for rank in new.ranks:
        at = HEADER_BYTES
        found = copies(manifest, new, rank)
        for copy in found:
            assert copy.target_offset == at
            assert copy.length > 0
            assert copy.source_offset >= HEADER_BYTES
            assert copy.source_offset + copy.length <= size_of(old.owned(copy.source))
            at += copy.length
        assert at == size_of(new.owned(rank))
        for a, b in pairwise(found):  # neighbours are joined
            assert a.source != b.source or a.source_offset + a.length != b.source_offset


def test_a_plan_for_another_model_has_no_copies(cut: Any, config: Any) -> None:
    made = cut(config(), (1, 1))
    with pytest.raises(ConfigInvalid, match="different models"):
        copies(made.manifest, Layout((9999,), (1,)), Rank(0))


def scripted(*pieces: bytes | Exception) -> Fetch:
    async def fetch(_rank: Rank, _start: int, _stop: int) -> AsyncIterator[bytes]:
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    return fetch


BODY = size_of(4096) - HEADER_BYTES
WHOLE = [Copy(Rank(3), HEADER_BYTES, HEADER_BYTES, BODY)]


@pytest.mark.parametrize(
    ("fetch", "error", "says"),
    [
        (scripted(), CheckpointInvalid, f"rank 3 came with {BODY} bytes less"),
        (scripted(bytes(BODY - 1)), CheckpointInvalid, "1 bytes less"),
        (scripted(bytes(BODY), b"x"), CheckpointInvalid, "more than asked for"),
        (scripted(bytes(100), ServerUnreachable("gone")), ServerUnreachable, "gone"),
    ],
)
async def test_a_range_that_does_not_arrive_whole_leaves_nothing(
    tmp_path: Path, fetch: Fetch, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await build_slice(tmp_path / "built", INFO, 4096, WHOLE, fetch)
    assert names(tmp_path) == []


@pytest.mark.parametrize("found", [[], [Copy(Rank(3), 0, HEADER_BYTES + 4, BODY)], [Copy(Rank(3), 0, HEADER_BYTES, 4)]])
async def test_copies_with_a_gap_are_a_mistake_of_the_caller(tmp_path: Path, found: list[Copy]) -> None:
    with pytest.raises(ValueError, match="copies"):
        await build_slice(tmp_path / "built", INFO, 4096, found, scripted(bytes(4)))
    assert names(tmp_path) == []


async def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def fetch(_rank: Rank, _start: int, _stop: int) -> AsyncIterator[bytes]:
        yield bytes(100)
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(build_slice(tmp_path / "built", INFO, 4096, WHOLE, fetch))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(tmp_path) == []


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        await build_slice(tmp_path / "no" / "built", INFO, 4096, WHOLE, scripted(bytes(BODY)))
