"""Where an agent listens for windows and commands, and how each side proves that it belongs to the same person.

A Unix socket lies in a folder that only its owner can enter, and the system names the user at either end. Where there
is none (Windows), it is a port on loopback with a secret that only an owner-only file holds. The secret itself never
travels: the client's token and the agent's proof are both HMACs of it (RFC 2104, SHA-256), so that a program that
listens on the port of an agent that died learns nothing that opens the next one.
"""

import hashlib
import hmac
import os
import socket
import struct
from pathlib import Path

from pydantic import BaseModel, ValidationError

from legion.errors import AgentNotRunning, Refused
from legion_client.control.instance import ADDRESS_FILE

PEER = struct.Struct("iII")  # Linux: process, user, group


class Address(BaseModel, frozen=True, extra="ignore"):
    """Either `path`, or `port` on 127.0.0.1 with `secret`."""

    path: Path | None = None
    port: int | None = None
    secret: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Address":
        """What the agent wrote. AgentNotRunning when there is nothing; Refused when it is not for us to read."""
        file = folder / ADDRESS_FILE
        try:
            return cls.model_validate_json(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise AgentNotRunning(f"no agent runs with {folder.parent}") from error
        except OSError as error:
            raise Refused(f"{file} cannot be read: {error.strerror}", hint="It belongs to the agent's user.") from error
        except ValidationError as error:
            raise AgentNotRunning(f"{file} is damaged", hint="Restart the agent; it writes the file anew.") from error

    def token(self) -> str:
        """Shows the agent that the client knows the secret."""
        return _mac(self.secret, "client")

    def proof(self, nonce: str) -> str:
        """Shows the client that the agent knows it."""
        return _mac(self.secret, f"agent {nonce}")


def peer_uid(connection: socket.socket) -> int | None:
    """Who is at the other end of a Unix socket; None where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if connection.family != getattr(socket, "AF_UNIX", None) or option is None:
        return None
    _, uid, _ = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, option, PEER.size))
    return int(uid)


def is_stranger(connection: socket.socket) -> bool:
    """Whether somebody else than this user, or the system's administrator, is at the other end."""
    uid = peer_uid(connection)
    return uid is not None and uid not in (0, os.getuid())


def _mac(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest() if secret else ""
