"""`legion-server backup`, `restore` and `check`. They need no running server."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from legion.errors import NotFound, StorageFailed

if TYPE_CHECKING:
    from legion_server.store.database import Database

DataDir = Annotated[
    Path | None, typer.Option(help="Where the server keeps everything. Default: LEGION_DATA_DIR, or legion-data.")
]


class CheckFailed(StorageFailed):
    slug = "check-failed"
    title = "What the server keeps does not fit together"
    hint = "Keep it all as it is, and restore a backup into another folder: legion-server restore."


def backup(
    file: Annotated[Path, typer.Argument(help="A new file; it holds the server's keys.")],
    data_dir: DataDir = None,
    without: Annotated[
        list[str] | None, typer.Option(help="An entry of the data folder to leave out, such as data. Repeatable.")
    ] = None,
) -> None:
    """Write all that the server keeps into one file, while it runs."""
    from legion_server.service.backup import write
    from legion_server.settings import load_settings
    from legion_server.store.database import Database

    settings = load_settings(data_dir=data_dir)
    _there(settings.data_dir, settings.database_url)

    async def run(database: Database) -> None:
        await write(database, settings.data_dir, file.absolute(), without or ())

    asyncio.run(_with_database(settings.database, run))
    typer.echo(f"{file} has {file.stat().st_size / 2**20:.1f} MiB; keep it secret: it holds the server's keys")


def restore(
    file: Annotated[Path, typer.Argument(help="Written by 'backup'.")],
    data_dir: DataDir = None,
) -> None:
    """Make a data folder and a database from a backup: both new, or empty."""
    from legion_server.service.backup import restore
    from legion_server.settings import load_settings
    from legion_server.store.database import Database

    settings = load_settings(data_dir=data_dir)

    async def run(database: Database) -> None:
        await restore(database, settings.data_dir, file)

    asyncio.run(_with_database(settings.database, run))
    typer.echo(f"restored into {settings.data_dir}; 'legion-server check' looks at all of it")


def check(data_dir: DataDir = None) -> None:
    """Look whether the database is whole, boards are sums of the ledger, and files are what the database says."""
    from legion_server.service.checks import CHECKS, Kept
    from legion_server.settings import load_settings
    from legion_server.store.database import Database

    settings = load_settings(data_dir=data_dir)
    _there(settings.data_dir, settings.database_url)

    async def run(database: Database) -> None:
        wrong = 0
        for name, one in CHECKS.items():
            found = [said async for said in one(Kept(settings, database))]
            typer.echo(f"{name}: {'ok' if not found else f'{len(found)} wrong'}")
            for said in found:
                typer.echo(f"  {said}")
            wrong += len(found)
        if wrong:
            raise CheckFailed(f"{wrong} things are wrong")

    asyncio.run(_with_database(settings.database, run))


async def _with_database(url: str, run: "Callable[[Database], Awaitable[None]]") -> None:
    from legion_server.store.database import Database

    database = Database(url)
    try:
        await run(database)
    finally:
        await database.close()


def _there(data_dir: Path, database_url: str | None) -> None:
    """Or SQLite would make an empty database."""
    if not (data_dir.is_dir() and (database_url or (data_dir / "legion.db").is_file())):
        raise NotFound(f"{data_dir} is no data folder of a server", hint="Name it with --data-dir.")
