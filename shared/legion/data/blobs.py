"""Files named by the SHA-256 of what they hold: token shards and tokenizer.json, on server and workers alike."""

import hashlib
import os
import tempfile
from pathlib import Path

from legion.errors import FingerprintMismatch, StorageFailed

READ_BYTES = 1 << 20


def write_blob(folder: Path, content: bytes | memoryview) -> str:
    """The SHA-256 under which `content` now lies in `folder`; after a crash the name holds all of it or does not exist.

    Raises StorageFailed when the folder cannot be written or the disk is full.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    target = folder / sha256
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A file of that name may be damaged: only the hash proves it, and hashing is cheaper than writing.
        if target.exists() and _sha256_of(target) == sha256:
            return sha256
        _replace(target, content)
    except OSError as error:
        raise StorageFailed(f"{target}: {error.strerror or error}") from error
    return sha256


def verified(folder: Path, sha256: str) -> Path:
    """The path of a blob whose content was just checked.

    Raises FingerprintMismatch naming the file when it is missing or holds something else.
    """
    path = folder / sha256
    try:
        found = _sha256_of(path)
    except FileNotFoundError as error:
        raise FingerprintMismatch(f"{path} is missing", hint="Start the client again; it fetches the file.") from error
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror or error}", hint="Make the file readable.") from error
    if found != sha256:
        raise FingerprintMismatch(f"{path} holds data with SHA-256 {found}")
    return path


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _replace(target: Path, content: bytes | memoryview) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".part-", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
