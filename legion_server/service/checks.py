"""Whether what is kept fits together: the database in itself, and the files it names."""

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from legion_server.service.slices import SliceFiles
from legion_server.settings import Settings
from legion_server.store import dump, proof
from legion_server.store.database import Database
from legion_server.store.sql import SqlStore
from legion_server.store.tables import metadata


@dataclass(frozen=True)
class Kept:
    """What a server keeps."""

    settings: Settings
    database: Database


Check = Callable[[Kept], AsyncIterator[str]]  # what is wrong, in words


async def _schema(kept: Kept) -> AsyncIterator[str]:
    async with kept.database.reading() as connection:
        if kept.database.is_sqlite:
            found = (await connection.execute(sa.text("PRAGMA integrity_check"))).scalars().all()
            for said in found:
                if said != "ok":
                    yield str(said)
        await dump.revision_of(connection)


async def _references(kept: Kept) -> AsyncIterator[str]:
    async with kept.database.reading() as connection:
        for table in metadata.sorted_tables:
            for key in table.foreign_keys:
                there = sa.exists().where(key.column == key.parent)
                lost = sa.select(sa.func.count()).select_from(table).where(key.parent.is_not(None), ~there)
                count = (await connection.execute(lost)).scalar_one()
                if count:
                    yield f"{count} rows of {table.name} name a row of {key.column.table.name} that is not there"


async def _documents(kept: Kept) -> AsyncIterator[str]:
    try:
        await SqlStore(kept.database).load()
    except ValueError as error:
        yield f"a document cannot be read: {str(error).splitlines()[0]}"


async def _keys(kept: Kept) -> AsyncIterator[str]:
    for name in ("ca.pem", "ca-key.pem"):
        if not (kept.settings.data_dir / name).is_file():
            yield f"{name} is missing: every worker would have to join again"


async def _checkpoints(kept: Kept) -> AsyncIterator[str]:
    settings = kept.settings
    files = SliceFiles(settings.slices_dir, settings.checkpoints_dir)
    for checkpoint in (await SqlStore(kept.database).load()).checkpoints:
        for ref in checkpoint.manifest.slices:
            said = _differs(files.slice(checkpoint, ref.rank, ref.sha256), ref.size_bytes, ref.sha256)
            if said:
                yield said
        for name in checkpoint.files:
            path = files.folder(checkpoint.step) / name
            if not path.is_file():
                yield f"{path} is missing"


def _differs(path: Path, size_bytes: int, sha256: str) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != size_bytes:
        return f"{path} has {path.stat().st_size} bytes, and should have {size_bytes}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == sha256 else f"{path} has SHA-256 {found[:12]}, and should have {sha256[:12]}"


async def _credit(kept: Kept) -> AsyncIterator[str]:
    async for said in proof.differences(kept.database):
        yield said


CHECKS: dict[str, Check] = {
    "database": _schema,
    "references": _references,
    "documents": _documents,
    "credit": _credit,
    "keys": _keys,
    "checkpoints": _checkpoints,
}
