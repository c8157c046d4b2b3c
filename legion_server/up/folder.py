"""Where a run of `up` lies: DATA_DIR/run-001, run-002, ... Every run gets a new folder, so nothing is overwritten.

run-001/server/     the server's data folder, as for `legion-server serve --data-dir`
run-001/workers/N/  the home of each client, N from 1
run-001/trace.json  the run as --verify compares it
"""

from dataclasses import dataclass
from pathlib import Path

from legion.errors import StorageFailed

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
    def ready_file(self) -> Path:
        """Written by the server: HOST PORT."""
        return self.root / "server.ready"

    @property
    def trace(self) -> Path:
        return self.root / "trace.json"


def new_run(data_dir: Path) -> RunFolder:
    """A folder with the next number, created. StorageFailed when the disk refuses."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        while True:
            folder = data_dir / f"{PREFIX}{max(numbered(data_dir), default=0) + 1:03d}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue  # another `up` was faster
            return RunFolder(folder)
    except OSError as error:
        raise StorageFailed(f"{data_dir} cannot be used: {error.strerror or error}") from error


def numbered(data_dir: Path) -> dict[int, Path]:
    """The runs in `data_dir` by their number."""
    if not data_dir.is_dir():
        return {}
    found = ((entry.name.removeprefix(PREFIX), entry) for entry in data_dir.glob(f"{PREFIX}*"))
    return {int(number): entry for number, entry in found if number.isdecimal()}
