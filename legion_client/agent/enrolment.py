"""The server that this computer has joined: key, certificate, authority and token, owner-only, in one folder.

How it is joined is in `joining.py` and `enrolling.py`.
"""

import asyncio
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

from legion.errors import StorageFailed, Unusable
from legion.identity import Identity, client_context, write_private
from legion.ids import RunId, WorkerId

ENROLMENT_FILE = "enrolment.json"  # written last: without it the folder counts as empty


class _Remembered(BaseModel, frozen=True, extra="forbid"):
    base_url: str
    run_id: RunId
    token: str
    worker_id: WorkerId | None = None  # unknown in homes of before


@dataclass(frozen=True)
class Enrolment:
    """A server that knows us. `token` is the bearer token of this worker."""

    base_url: str
    run_id: RunId
    token: str
    identity: Identity
    worker_id: WorkerId  # that of the identity, which takes long to say

    @property
    def context(self) -> ssl.SSLContext:
        """Believes this server's authority and no other."""
        return client_context(self.identity.authority_pem)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What `save` wrote, or None before the first enrolment. Unusable when it is damaged, StorageFailed when it
        cannot be read."""
        path = folder / ENROLMENT_FILE
        try:
            remembered = _Remembered.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageFailed(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise Unusable(f"{path} is damaged", hint="Remove the folder and join with a new invite.") from error
        identity = Identity.load(folder)
        worker_id = remembered.worker_id or identity.worker_id
        return cls(remembered.base_url, remembered.run_id, remembered.token, identity, worker_id)

    def save(self, folder: Path) -> None:
        self.identity.save(folder)
        remembered = _Remembered(base_url=self.base_url, run_id=self.run_id, token=self.token, worker_id=self.worker_id)
        write_private(folder / ENROLMENT_FILE, json.dumps(remembered.model_dump()).encode())


async def forget(folder: Path) -> None:
    """The server and its token; the identity stays."""
    try:
        await asyncio.to_thread((folder / ENROLMENT_FILE).unlink, missing_ok=True)
    except OSError as error:
        raise StorageFailed(f"the enrolment cannot be removed: {error.strerror}") from error
