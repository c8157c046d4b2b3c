"""One agent a home: a lock that the system takes back when the process ends, however it ends."""

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from legion.errors import AlreadyRunning, StorageFailed

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_FILE = "agent.lock"
ADDRESS_FILE = "address.json"
HOLDER_FILE = "agent.json"


def own_folder(path: Path) -> Path:
    """`path`, there and open to its owner only. StorageFailed when it cannot be, or belongs to somebody else."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
            raise StorageFailed(f"{path} is not a folder of yours", hint="Remove it, or use another home with --home.")
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise StorageFailed(
            f"{path} cannot be used: {error.strerror}", hint="Choose a folder that you can write to, with --home."
        ) from error
    return path


def is_announced(folder: Path) -> bool:
    """Whether an agent has said where it listens. One that was killed has not taken that back."""
    try:
        return (folder / ADDRESS_FILE).exists()
    except OSError:  # whoever reads it says what is wrong with it
        return True


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """This process is the home's agent for the time of the block; AlreadyRunning names the process that is."""
    own_folder(folder)
    try:
        lock = (folder / LOCK_FILE).open("a+b")
    except OSError as error:
        raise StorageFailed(f"{folder / LOCK_FILE} cannot be opened: {error.strerror}") from error
    with lock:
        if not take(lock):
            raise AlreadyRunning(f"an agent already runs with {folder.parent}{_holder(folder)}")
        # Beside the lock, because Windows lets nobody read a locked byte.
        (folder / HOLDER_FILE).write_text(json.dumps({"pid": os.getpid()}), encoding="utf-8")
        try:
            yield
        finally:
            (folder / HOLDER_FILE).unlink(missing_ok=True)


def take(lock: BinaryIO) -> bool:
    """The lock goes with the open file, and that with the process; children do not inherit it."""
    try:
        if sys.platform == "win32":
            lock.seek(0)
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise StorageFailed(
            f"{lock.name} cannot be locked: {error.strerror}", hint="Choose a home on a local disk, with --home."
        ) from error
    return True


def _holder(folder: Path) -> str:
    try:
        pid = json.loads((folder / HOLDER_FILE).read_text(encoding="utf-8"))["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f", as process {pid}"
