"""Files that appear whole or not at all: written beside their place, flushed to disk, then renamed."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from legion.errors import StorageFailed

PIECE_BYTES: Final = 1 << 20  # read and written at a time: small enough to be hashed while in cache


@dataclass(frozen=True, slots=True)
class Written:
    """A finished file."""

    sha256: str
    size_bytes: int


class Sink:
    """A binary file that hashes what passes through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        with memoryview(data) as view:
            for start in range(0, view.nbytes, PIECE_BYTES):
                piece = view[start : start + PIECE_BYTES]
                self._hash.update(piece)
                self._file.write(piece)
            self._size_bytes += view.nbytes

    def flush(self) -> None:
        """Everything written is on the disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def written(self) -> Written:
        return Written(self._hash.hexdigest(), self._size_bytes)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """The operating system's refusals become StorageFailed, naming `path`."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{path} could not be written: {error.strerror or error}") from error


@contextmanager
def new_file(path: Path, *, lasting: bool = True) -> Iterator[Sink]:
    """`path` holds what was written once the block ends; if it fails or is cancelled, nothing has changed.

    `lasting`: also through a power cut, which waits for the disk. Raises StorageFailed for a full disk, a read-only or
    a missing folder.
    """
    partial = path.with_name(f".{path.name}.partial")
    with storing(path):
        try:
            with partial.open("wb") as file:
                sink = Sink(file)
                yield sink
                if lasting:
                    sink.flush()
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if lasting:
            sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which takes the place of `path` once the block ends, or vanishes if it fails."""
    partial = path.with_name(f".{path.name}.partial")
    replaced = path.with_name(f".{path.name}.replaced")
    with storing(path):
        if replaced.exists() and not path.exists():
            replaced.rename(path)  # a process was killed between the two renames below
        for leftover in (partial, replaced):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir(parents=True)
        try:
            yield partial
            sync_folder(partial)
            if path.exists():
                path.rename(replaced)
            partial.rename(path)
        except BaseException:
            # The error on its way out says what went wrong; a folder that cannot be removed adds nothing to it.
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(path.parent)
        if replaced.exists():
            shutil.rmtree(replaced)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` last through a power cut; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
