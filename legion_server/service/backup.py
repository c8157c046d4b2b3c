"""Backups: one tar file with the database's rows and the data folder's files.

Invariant: its last member lists all others with their digests, so what ends early or was damaged is no backup.
"""

import contextlib
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from pydantic import BaseModel, ValidationError

from legion.checkpoint.storage import PIECE_BYTES, storing
from legion.errors import StorageFailed, Unusable
from legion_server.store import dump
from legion_server.store.database import Database

FORMAT = 1
CONTENTS = "contents.json"
FILES, ROWS = PurePosixPath("files"), PurePosixPath("rows")
# Made anew by a server, or of the one that runs.
TRANSIENT = {"lock", "listening.json", "server.pem", "server-key.pem", "exports", "servers", "legion.db"}
TRANSIENT |= {"legion.db-wal", "legion.db-shm"}


class Contents(BaseModel, frozen=True, extra="forbid"):
    """What a backup has."""

    format: int
    schema_revision: str
    sha256: dict[str, str]  # by name of the member


async def write(database: Database, data_dir: Path, target: Path, without: Collection[str] = ()) -> Contents:
    """While the server runs. `without`: entries of the data folder. StorageFailed."""
    _new(target)
    partial = target.with_name(f".{target.name}.partial")
    with storing(target), contextlib.ExitStack() as stack:
        # Whoever can read it can be the server.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        stack.callback(partial.unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as file:
            contents = await _write_members(database, data_dir, file, {*without, *TRANSIENT})
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    return contents


async def _write_members(database: Database, data_dir: Path, file: BinaryIO, without: Collection[str]) -> Contents:
    sha256: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="w") as tar, tempfile.TemporaryDirectory(dir=data_dir, prefix=".backup-") as t:
        async with dump.snapshot(database) as snapshot:
            # Links at the moment of the snapshot: a server that runs on removes the files of older checkpoints.
            _link(data_dir, Path(t), without)
            for table in dump.TABLES:
                path = Path(t) / f".{table.name}"
                with gzip.open(path, "wb", compresslevel=1) as rows:
                    async for line in snapshot.lines(table):
                        rows.write(line)
                _add(tar, path, ROWS / f"{table.name}.jsonl.gz", sha256)
                path.unlink()
        for path in _files(Path(t)):
            _add(tar, path, FILES / path.relative_to(t).as_posix(), sha256)
        contents = Contents(format=FORMAT, schema_revision=snapshot.revision, sha256=sha256)
        said = contents.model_dump_json().encode()
        member = tarfile.TarInfo(CONTENTS)
        member.size = len(said)
        tar.addfile(member, BytesIO(said))
    return contents


def _new(target: Path) -> None:
    if target.exists():
        raise Unusable(f"{target} exists already", hint="Name a file that does not exist yet.")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _link(source: Path, target: Path, without: Collection[str]) -> None:
    """All files that are whole; every writer of the server puts new ones in their place, and changes none."""
    for entry in os.scandir(source):
        if entry.name in without or entry.name.startswith(".") or entry.name.endswith(".part"):
            continue
        with contextlib.suppress(FileNotFoundError):  # the server runs on
            if entry.is_dir(follow_symlinks=False):
                (target / entry.name).mkdir()
                _link(source / entry.name, target / entry.name, ())
            elif entry.is_file():
                _linked(source / entry.name, target / entry.name)


def _linked(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _add(tar: tarfile.TarFile, path: Path, name: PurePosixPath, sha256: dict[str, str]) -> None:
    with path.open("rb") as file:
        sha256[str(name)] = _sha256(file)
    tar.add(path, str(name), recursive=False)


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


async def restore(database: Database, data_dir: Path, source: Path) -> Contents:
    """Into a folder and a database that are empty, or nothing. StorageFailed; Unusable for what is no whole backup."""
    _make_empty(data_dir)
    async with contextlib.AsyncExitStack() as undo:
        undo.callback(_clear, data_dir)
        undo.push_async_callback(database.close)  # before, or its file would come back
        with storing(data_dir), _opened(source) as tar:
            contents = _verified(tar, source)
            _extract(tar, data_dir)
            await dump.load(database, {table.name: _rows(tar, table.name) for table in dump.TABLES})
        undo.pop_all()
    return contents


def _make_empty(folder: Path) -> None:
    with storing(folder):
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        if any(folder.iterdir()):
            raise StorageFailed(f"{folder} is not empty", hint="Restore into a new folder, named with --data-dir.")


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r:") as tar:
            yield tar
    except FileNotFoundError as error:
        raise Unusable(f"{error.filename} is missing", hint="Name a file that 'backup' wrote.") from error
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise _not_whole(source) from error


def _verified(tar: tarfile.TarFile, source: Path) -> Contents:
    names = tar.getnames()
    if not names or names[-1] != CONTENTS:
        raise _not_whole(source)
    try:
        contents = Contents.model_validate_json(_reader(tar, CONTENTS).read())
    except ValidationError as error:
        raise Unusable(f"{source} is of another version", hint="Use the Legion version that wrote it.") from error
    if contents.format != FORMAT or contents.schema_revision != dump.newest_revision():
        raise Unusable(
            f"{source} has schema {contents.schema_revision}, and this version of Legion {dump.newest_revision()}",
            hint="Restore it with the Legion version that wrote it; a newer server then brings it up to date.",
        )
    for name, sha256 in contents.sha256.items():
        if name not in names or _sha256(_reader(tar, name)) != sha256:
            raise _not_whole(source)
    if set(names) != {*contents.sha256, CONTENTS}:
        raise _not_whole(source)
    return contents


def _not_whole(source: Path) -> Unusable:
    return Unusable(f"{source} is no whole backup", hint="Use another one: this file ends early, or was changed.")


def _reader(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    file = tar.extractfile(name)
    if file is None:
        raise tarfile.ReadError(f"{name} is no file")
    return file


def _extract(tar: tarfile.TarFile, data_dir: Path) -> None:
    for member in tar.getmembers():
        if not member.name.startswith(f"{FILES}/"):
            continue
        inside = tarfile.data_filter(member, str(data_dir))  # nothing outside of the folder
        target = data_dir / PurePosixPath(inside.name).relative_to(FILES)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = 0o600 if target.parent == data_dir else 0o644
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            shutil.copyfileobj(_reader(tar, member.name), file, PIECE_BYTES)


def _rows(tar: tarfile.TarFile, table: str) -> Iterator[bytes]:
    with gzip.open(_reader(tar, str(ROWS / f"{table}.jsonl.gz"))) as lines:
        yield from lines
