"""Which run `up --resume` goes on with."""

from pathlib import Path

from legion.errors import NotFound
from legion_server.domain.checkpoints import newest_complete
from legion_server.settings import load_settings
from legion_server.store.sql import SqlStore
from legion_server.up.folder import RunFolder, numbered


async def newest_run(data_dir: Path) -> RunFolder:
    """The newest run with a complete checkpoint. NotFound when there is none in `data_dir`."""
    for _, root in sorted(numbered(data_dir).items(), reverse=True):
        folder = RunFolder(root)
        if await _checkpoint_step(folder.server) is not None:
            return folder
    raise NotFound(
        f"no run in {data_dir} has a complete checkpoint to resume from",
        hint="Start a new run: legion-server up, without --resume.",
    )


async def _checkpoint_step(server_dir: Path) -> int | None:
    """Of the newest complete checkpoint, as the server's database knows it."""
    settings = load_settings(data_dir=server_dir)
    if settings.database_url is None and not (server_dir / "legion.db").exists():
        return None  # opening the store would create it
    store = SqlStore(settings.database)
    try:
        await store.open()
        loaded = await store.load()
    finally:
        await store.close()
    newest = newest_complete({checkpoint.step: checkpoint for checkpoint in loaded.checkpoints})
    return newest.step if newest else None
