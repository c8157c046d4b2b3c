"""The files of one run in a data folder that has several, one after another.

Invariant: a note in the folder names the run whose slices, anchors and updates lie there. A server that was killed
between the change in the database and that of the files finds another name in it, and clears them then.
"""

import asyncio
import os
import shutil
from pathlib import Path

from legion.checkpoint.storage import new_file, storing, sync_folder
from legion.ids import RunId
from legion_server.domain.checkpoints import Checkpoint
from legion_server.service.blobs import Blobs
from legion_server.service.slices import SliceFiles
from legion_server.settings import Settings

NOTE = "files-of"
CHECKPOINT, SLICES = "checkpoint", "slices"


class RunFiles:
    """`runs/RUN_ID/checkpoint` keeps the last assembled folder of a run that is over; without one, `slices`."""

    def __init__(self, settings: Settings, files: SliceFiles, blobs: Blobs) -> None:
        self._settings = settings
        self._files = files
        self._blobs = blobs
        self._note = settings.data_dir / NOTE

    def checkpoint(self, run_id: RunId) -> Path:
        """The folder of a run that is over."""
        return self._of(run_id) / CHECKPOINT

    async def keep(self, run_id: RunId, checkpoint: Checkpoint) -> None:
        """Before the database forgets it. Again changes nothing."""
        if checkpoint.assembled:
            await asyncio.to_thread(_linked, self._files.folder(checkpoint.step), self.checkpoint(run_id))
        else:
            source = self._files.slices_dir / checkpoint.folder_name
            await asyncio.to_thread(_linked, source, self._of(run_id) / SLICES)

    async def settle(self, run_id: RunId, *, is_new: bool) -> None:
        """The files are this run's from now on. `is_new`: the database is, which must not take files with it."""
        if not is_new and await asyncio.to_thread(self._noted) not in (None, run_id):
            await asyncio.to_thread(self._clear)
            for name in await self._blobs.names():
                await self._blobs.delete(name)
        await asyncio.to_thread(self._write_note, run_id)

    def _noted(self) -> str | None:
        with storing(self._note):
            return self._note.read_text(encoding="utf-8").strip() if self._note.exists() else None

    def _write_note(self, run_id: RunId) -> None:
        if self._noted() != run_id:
            with new_file(self._note) as sink:
                sink.write(f"{run_id}\n".encode())

    def _clear(self) -> None:
        settings = self._settings
        for folder in (settings.anchors_dir, settings.slices_dir, settings.checkpoints_dir):
            with storing(folder):
                for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _of(self, run_id: RunId) -> Path:
        return self._settings.data_dir / "runs" / run_id


def _linked(source: Path, target: Path) -> None:
    """The folder's files at another place as well: there as a whole, or not at all."""
    with storing(target):
        if target.exists() or not source.is_dir():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        shutil.copytree(source, partial, copy_function=_link)
        partial.replace(target)
        sync_folder(target.parent)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
