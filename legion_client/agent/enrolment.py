"""The server that this computer has joined: key, certificate, authority and token, owner-only, in one folder.

How it is joined is in `enrolling.py`: an agent that has done so needs nothing of it.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

from legion.errors import LegionError, Refused, StorageFailed, Unusable, WorkerRevoked
from legion.identity import Identity, Invite, client_context, same_authority, write_private
from legion.ids import RunId, WorkerId
from legion.messages import Hardware
from legion_client.agent.coordinator import Coordinator

logger = logging.getLogger(__name__)

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


async def join(folder: Path, invite: Invite | None, name: str, hardware: Callable[[], Hardware]) -> Enrolment:
    """The enrolment in `folder`, made with `invite` if there is none yet, or if the server revoked the one there is.

    `hardware` is asked in a thread, and only for a new enrolment.

    Raises Refused when the invite is of another server than the one this folder is enrolled with, Unusable when there
    is neither enrolment nor invite, WorkerRevoked when the invite was used before the revocation.
    """
    known = Enrolment.load(folder)
    if known is None:
        if invite is None:
            raise Unusable("this computer has not joined a server yet", hint="Pass an invite: --join FILE.")
        return await _enrolled(folder, invite, name, hardware)
    if invite is None:
        return known
    if not same_authority(known.identity.authority_pem, invite.authority_sha256):
        raise Refused(
            f"this computer belongs to {known.base_url}; the invite is of another server, {invite.base_url}",
            hint=f"Start without --join, use another --home, or remove {folder} to leave the old server for good.",
        )
    if known.base_url != invite.base_url:
        # The same authority at another address: the server moved.
        known = replace(known, base_url=invite.base_url)
        known.save(folder)
    if await _is_revoked(known):
        return await _enrolled(folder, invite, name, hardware)
    logger.info("already enrolled, the invite was not used worker=%s server=%s", known.worker_id, known.base_url)
    return known


async def _is_revoked(known: Enrolment) -> bool:
    """Whether the server says so; whatever else it or the network says is for the agent, which tries again."""
    async with Coordinator(known.base_url, known.context, known.worker_id, known.token) as server:
        try:
            await server.config()
        except WorkerRevoked:
            return True
        except LegionError as error:
            logger.info("server could not be asked about the enrolment reason=%s", error)
    return False


async def _enrolled(folder: Path, invite: Invite, name: str, hardware: Callable[[], Hardware]) -> Enrolment:
    from legion_client.agent.enrolling import enrol  # noqa: PLC0415  cryptography: 10 MB, once in a lifetime

    return await enrol(folder, invite, name, hardware)
