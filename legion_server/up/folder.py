"""Where a run of `up` lies: DATA_DIR/run-001, run-002, ... Every run gets a new folder, so nothing is overwritten.

run-001/server/     the server's data folder, as for `legion-server serve --data-dir`
run-001/workers/N/  the home of each client
run-001/logs/       one file per process, unless --logs-dir says another place
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from legion.errors import NotFound, StorageFailed

PREFIX = "run-"


@dataclass(frozen=True, slots=True)
class RunFolder:
    root: Path

    @property
    def server(self) -> Path:
        return self.root / "server"

    def worker(self, number: int) -> Path:
        """`number` counts from 1."""
        return self.root / "workers" / str(number)

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def trace(self) -> Path:
        """What --verify compares with the reference."""
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


def newest_run(data_dir: Path, holds_checkpoint: Callable[[Path], bool]) -> RunFolder:
    """The newest run whose server folder holds a complete checkpoint. NotFound when there is none in `data_dir`."""
    for _, folder in sorted(_numbered(data_dir).items(), reverse=True):
        if holds_checkpoint(RunFolder(folder).server):
            return RunFolder(folder)
    raise NotFound(
        f"no run in {data_dir} has a complete checkpoint to resume from",
        hint="Start a new run: legion-server up, without --resume.",
    )


def _numbered(data_dir: Path) -> dict[int, Path]:
    if not data_dir.is_dir():
        return {}
    found = ((entry.name.removeprefix(PREFIX), entry) for entry in data_dir.glob(f"{PREFIX}*"))
    return {int(number): entry for number, entry in found if number.isdecimal()}
