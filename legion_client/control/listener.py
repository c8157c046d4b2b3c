"""The agent's end of the control socket: where it is made, and what a dead agent left there is replaced."""

import hashlib
import os
import secrets
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from legion.errors import StorageFailed
from legion.identity import write_private
from legion_client.control.address import Address
from legion_client.control.instance import ADDRESS_FILE, own_folder

SOCKET_NAME = "socket"
# sockaddr_un holds 108 bytes on Linux and 104 on macOS and the BSDs, with a zero at the end.
PATH_BYTES = 107 if sys.platform == "linux" else 103


@dataclass(frozen=True, slots=True)
class Bound:
    """A socket that is bound but does not listen yet, and where clients find it."""

    socket: socket.socket
    address: Address


def announce(folder: Path, address: Address) -> None:
    """Clients find the agent from now on."""
    write_private(folder / ADDRESS_FILE, address.model_dump_json().encode())


def withdraw(folder: Path, address: Address) -> None:
    """Nobody is led to where nobody listens."""
    (folder / ADDRESS_FILE).unlink(missing_ok=True)
    if address.path is not None:
        address.path.unlink(missing_ok=True)


def bind(folder: Path, *, loopback: bool = sys.platform == "win32") -> Bound:
    """For the holder of the lock of `folder`: whatever socket a dead agent left there is replaced."""
    if loopback:
        return _bind_loopback()
    path = _socket_path(folder)
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        bound.close()
        raise StorageFailed(
            f"a socket cannot be made at {path}: {error.strerror}", hint="Choose a home on a local disk, with --home."
        ) from error
    return Bound(bound, Address(path=path))


def _bind_loopback() -> Bound:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.bind(("127.0.0.1", 0))
    return Bound(bound, Address(port=bound.getsockname()[1], secret=secrets.token_hex(32)))


def _socket_path(folder: Path) -> Path:
    """In `folder`; where that path is too long for a socket, in this session's runtime folder, named by a digest."""
    path = folder / SOCKET_NAME
    if len(os.fsencode(path)) <= PATH_BYTES:
        return path
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    # The name of the user's own: in a shared /tmp somebody else may have taken any other.
    place = Path(runtime) / "legion" if runtime else Path(tempfile.gettempdir()) / f"legion-{os.getuid()}"
    path = own_folder(place) / hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    if len(os.fsencode(path)) > PATH_BYTES:
        raise StorageFailed(
            f"{folder} and {place} are both too long as a place for a socket",
            hint="Choose a home with a shorter path, with --home.",
        )
    return path
