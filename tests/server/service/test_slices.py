"""Uploads on disk: whole or not at all, and nothing left by a killed process."""

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.requests import ClientDisconnect

from legion.config import RunConfig
from legion.errors import CheckpointInvalid, StorageFailed
from legion.ids import Epoch, RunId
from legion_server.domain import checkpoints as cp
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.membership import Worker
from legion_server.domain.plan import make_plan
from legion_server.service.slices import SliceFiles
from legion_server.service.uploads import PIECE_BYTES


@pytest.fixture
def files(tmp_path: Path) -> SliceFiles:
    return SliceFiles(tmp_path / "slices", tmp_path / "checkpoints")


@pytest.fixture
def checkpoint(make_worker: Callable[..., Worker]) -> Checkpoint:
    plan = make_plan(RunId("run-1"), RunConfig(), Epoch(1), 0, [make_worker("a")])
    return cp.begin(RunId("run-1"), plan, 5, 0)


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("sizes", [[0], [1], [PIECE_BYTES], [PIECE_BYTES - 1, 2], [7] * 5, [PIECE_BYTES + 3, 0, 1]])
async def test_bytes_arrive_as_they_were_sent(files: SliceFiles, checkpoint: Checkpoint, sizes: list[int]) -> None:
    chunks = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    content = b"".join(chunks)
    sha256 = hashlib.sha256(content).hexdigest()
    ref = await files.receive(checkpoint, 3, sha256, len(content), pieces(*chunks))
    assert (ref.rank, ref.sha256, ref.size_bytes) == (3, sha256, len(content))
    assert files.slice(checkpoint, 3, sha256).read_bytes() == content


async def test_too_much_or_something_else_leaves_nothing(
    files: SliceFiles, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointInvalid, match="longer than the 3 bytes"):
        await files.receive(checkpoint, 0, "0" * 64, 3, pieces(b"ab", b"cd"))
    with pytest.raises(CheckpointInvalid, match="arrived with SHA-256"):
        await files.receive(checkpoint, 0, "0" * 64, 9, pieces(b"ab"))
    assert everything(tmp_path) == []


async def test_a_sender_that_vanishes_leaves_nothing(files: SliceFiles, checkpoint: Checkpoint, tmp_path: Path) -> None:
    async def cut_off() -> AsyncIterator[bytes]:
        yield b"x" * (2 * PIECE_BYTES)
        raise ClientDisconnect

    with pytest.raises(ClientDisconnect):
        await files.receive(checkpoint, 0, "0" * 64, 2**30, cut_off())
    assert everything(tmp_path) == []


async def test_a_folder_that_cannot_be_made_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "slices").write_text("a file")
    files = SliceFiles(tmp_path / "slices", tmp_path / "checkpoints")
    with pytest.raises(StorageFailed, match="slices"):
        await files.receive(checkpoint, 0, "0" * 64, 9, pieces(b"x"))


async def test_sweeping_takes_only_what_nobody_knows(files: SliceFiles, checkpoint: Checkpoint, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"x").hexdigest()
    kept = files.slice(checkpoint, 0, sha256)
    await files.receive(checkpoint, 0, sha256, 9, pieces(b"x"))
    (kept.parent / ".rank-1.safetensors.abcd.part").write_bytes(b"half")
    unknown = replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"epoch": Epoch(9)}))
    await files.receive(unknown, 0, sha256, 9, pieces(b"x"))
    for name in (".step-00000005.partial", "step-00000005", "my own copy"):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"")
    files.sweep([checkpoint])
    assert everything(tmp_path) == [
        "checkpoints/my own copy/file",
        "checkpoints/step-00000005/file",
        str(kept.relative_to(tmp_path)),
    ]
    files.remove(checkpoint)
    assert everything(tmp_path) == ["checkpoints/my own copy/file"]
    files.remove(checkpoint)
