"""Slice files and checkpoint folders on disk: they appear whole, or not at all."""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from legion.checkpoint.storage import sync_folder
from legion.errors import CheckpointInvalid, StorageFailed
from legion.messages import SliceRef
from legion_server.domain.checkpoints import Checkpoint
from legion_server.service import uploads

logger = logging.getLogger(__name__)

PART = ".part"


class SliceFiles:
    """`slices/step-S-epoch-E/rank-R-HASH.safetensors`, and the assembled `checkpoints/step-S`.

    The hash is in the name so that an upload that is refused in the end has not replaced one that was accepted.
    """

    def __init__(self, slices_dir: Path, checkpoints_dir: Path) -> None:
        self.slices_dir = slices_dir
        self._checkpoints_dir = checkpoints_dir

    def slice(self, checkpoint: Checkpoint, rank: int, sha256: str) -> Path:
        return self.slices_dir / checkpoint.folder_name / f"rank-{rank}-{sha256[:16]}.safetensors"

    def discard(self, checkpoint: Checkpoint, ref: SliceRef) -> None:
        """An upload that was refused after it had arrived."""
        self.slice(checkpoint, ref.rank, ref.sha256).unlink(missing_ok=True)

    def folder(self, step: int) -> Path:
        """Of the assembled checkpoint."""
        return self._checkpoints_dir / f"step-{step:08d}"

    async def receive(
        self, checkpoint: Checkpoint, rank: int, sha256: str, most_bytes: int, body: AsyncIterator[bytes]
    ) -> SliceRef:
        """Store an upload. CheckpointInvalid when it is too long or has another hash; StorageFailed."""
        target = self.slice(checkpoint, rank, sha256)
        part = target.with_name(f".{target.name}.{os.urandom(4).hex()}{PART}")
        try:
            too_long = CheckpointInvalid(f"the slice is longer than the {most_bytes} bytes its rank can hold")
            written = await uploads.receive(part, body, most_bytes, too_long)
            if written.sha256 != sha256:
                raise CheckpointInvalid(
                    f"the slice arrived with SHA-256 {written.sha256[:12]}, not {sha256[:12]}", hint="Upload it again."
                )
            await asyncio.to_thread(part.replace, target)
            await asyncio.to_thread(sync_folder, target.parent)
        except OSError as error:
            raise StorageFailed(f"{target} cannot be written: {error.strerror}") from error
        finally:
            if part.exists():
                _delete(part)
        return SliceRef(rank=rank, sha256=sha256, size_bytes=written.size_bytes)

    def sweep(self, known: Iterable[Checkpoint]) -> None:
        """What a killed process left: parts of uploads, slices nobody recorded, folders half assembled."""
        named = {checkpoint.folder_name for checkpoint in known}
        for folder in _entries(self.slices_dir):
            for path in _entries(folder) if folder.name in named else [folder]:
                if path is folder or path.name.endswith(PART):
                    _delete(path)
        for folder in _entries(self._checkpoints_dir):
            if folder.name.startswith(".") and folder.name.endswith(".partial"):
                _delete(folder)

    def remove(self, checkpoint: Checkpoint) -> None:
        """Delete a checkpoint that is no longer listed. What cannot be deleted is reported and stays."""
        for path in (self.slices_dir / checkpoint.folder_name, self.folder(checkpoint.step)):
            _delete(path)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _delete(path: Path) -> None:
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("leftover cannot be deleted path=%s reason=%s", path, error.strerror)
