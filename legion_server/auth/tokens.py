"""Secrets that callers show: invite tokens, worker tokens, the admin token. At rest only their hashes exist.

The tokens are random and long, so a plain SHA-256 is enough: there is nothing to guess.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from legion.errors import StorageFailed, Unusable
from legion.identity import write_private

SHORTEST_ADMIN_TOKEN = 16  # characters; the operator may choose one


def new_token() -> str:
    """256 random bits, URL-safe."""
    return secrets.token_urlsafe(32)


def token_sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def relay_invite_sha256(token: str) -> str:
    """Of a relay's invite: known by another hash than a worker's, so that neither enrols the other."""
    return token_sha256(f"relay:{token}")


def same(token: str, known_sha256: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(token_sha256(token), known_sha256)


def open_admin_token(data_dir: Path, given: str | None) -> str:
    """The operator's choice, or the one in data_dir/admin-token, made at first start."""
    if given is not None:
        if len(given) < SHORTEST_ADMIN_TOKEN:
            raise Unusable(f"LEGION_ADMIN_TOKEN is shorter than {SHORTEST_ADMIN_TOKEN} characters")
        return given
    path = admin_token_file(data_dir)
    try:
        if path.exists():
            return path.read_text().strip()
    except OSError as error:
        raise StorageFailed(f"{path} cannot be read: {error.strerror}") from error
    token = new_token()
    write_private(path, token.encode())
    return token


def admin_token_file(data_dir: Path) -> Path:
    return data_dir / "admin-token"
