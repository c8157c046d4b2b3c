"""Which run `up --resume` goes on with."""

from pathlib import Path

from legion.errors import NotFound
from legion_server.domain.checkpoints import newest_complete
from legion_server.settings import Settings
from legion_server.store.api import Loaded
from legion_server.store.database import Database
from legion_server.store.sql import SqlStore
from legion_server.up.folder import RunFolder, numbered


async def newest_run(data_dir: Path) -> RunFolder:
    """The newest run with a complete checkpoint that is not over. NotFound when none in `data_dir` has a checkpoint.

    Where all are over it is the newest of these: its server says that there is nothing to resume.
    """
    over: list[RunFolder] = []
    for _, root in sorted(numbered(data_dir).items(), reverse=True):
        folder = RunFolder(root)
        loaded = await _loaded(folder.server)
        if loaded is None or newest_complete({saved.step: saved for saved in loaded.checkpoints}) is None:
            continue
        if loaded.run is None or loaded.run.phase != "complete":
            return folder
        over.append(folder)
    if over:
        return over[0]
    raise NotFound(
        f"no run in {data_dir} has a complete checkpoint to resume from",
        hint="Start a new run: legion-server up, without --resume.",
    )


async def _loaded(server_dir: Path) -> Loaded | None:
    """What the server's database holds; None where a server never started."""
    if not (server_dir / "legion.db").exists():
        return None  # opening the store would create it
    # Not from the environment: `up` does not hand that to its servers, and its database is another server's.
    settings = Settings.model_construct(data_dir=server_dir)
    store = SqlStore(Database(settings.database))
    try:
        await store.open()
        return await store.load()
    finally:
        await store.close()
