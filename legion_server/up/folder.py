"""Where a run of `up` lies: DATA_DIR/run-001, run-002, ... Every run gets a new folder, so nothing is overwritten.

run-001/server/     the server's data folder, as for `legion-server serve --data-dir`
run-001/workers/N/  the home of each client, N from 1
run-001/trace.json  the run as --verify compares it
"""

from dataclasses import dataclass
from pathlib import Path

from legion.errors import NotFound, StorageFailed
from legion_server.domain.checkpoints import newest_complete
from legion_server.settings import load_settings
from legion_server.store.sql import SqlStore

PREFIX = "run-"


@dataclass(frozen=True, slots=True)
class RunFolder:
    root: Path

    @property
    def server(self) -> Path:
        return self.root / "server"

    def worker(self, number: int) -> Path:
        return self.root / "workers" / str(number)

    @property
    def trace(self) -> Path:
        return self.root / "trace.json"


def new_run(data_dir: Path) -> RunFolder:
    """A folder with the next number, created. StorageFailed when the disk refuses."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        while True:
            folder = data_dir / f"{PREFIX}{max(_numbered(data_dir), default=0) + 1:03d}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue  # another `up` was faster
            return RunFolder(folder)
    except OSError as error:
        raise StorageFailed(f"{data_dir} cannot be used: {error.strerror or error}") from error


async def newest_run(data_dir: Path) -> RunFolder:
    """The newest run with a complete checkpoint. NotFound when there is none in `data_dir`."""
    for _, root in sorted(_numbered(data_dir).items(), reverse=True):
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


def _numbered(data_dir: Path) -> dict[int, Path]:
    if not data_dir.is_dir():
        return {}
    found = ((entry.name.removeprefix(PREFIX), entry) for entry in data_dir.glob(f"{PREFIX}*"))
    return {int(number): entry for number, entry in found if number.isdecimal()}
