"""Joining a server once, and remembering it: key, certificate, authority, token; all owner-only, in one folder.

The invite's token travels only to a server that proved to be the one the invite names, and the key never leaves.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import httpx
from cryptography import x509
from pydantic import BaseModel, ValidationError

from legion.errors import (
    LegionError,
    ProtocolMismatch,
    Refused,
    ServerUnreachable,
    StorageFailed,
    Unusable,
    WorkerRevoked,
    WrongAuthority,
)
from legion.identity import (
    KEY_FILE,
    Identity,
    Invite,
    PrivateKey,
    client_context,
    key_pem,
    load_key,
    new_key,
    same_authority,
    signing_request,
    unverified_context,
    write_private,
)
from legion.ids import RunId, WorkerId
from legion.messages import PROTOCOL, EnrolReply, EnrolRequest, Hardware
from legion_client.agent.coordinator import TIMEOUT, Coordinator, naming_server, parsed, raise_for_problem

logger = logging.getLogger(__name__)

ENROLMENT_FILE = "enrolment.json"  # written last: without it the folder counts as empty


class _Remembered(BaseModel, frozen=True, extra="forbid"):
    base_url: str
    run_id: RunId
    token: str


@dataclass(frozen=True)
class Enrolment:
    """A server that knows us. `token` is the bearer token of this worker."""

    base_url: str
    run_id: RunId
    token: str
    identity: Identity

    @property
    def worker_id(self) -> WorkerId:
        return self.identity.worker_id

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
        return cls(remembered.base_url, remembered.run_id, remembered.token, Identity.load(folder))

    def save(self, folder: Path) -> None:
        self.identity.save(folder)
        remembered = _Remembered(base_url=self.base_url, run_id=self.run_id, token=self.token)
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
        return await enrol(folder, invite, name, hardware)
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
        return await enrol(folder, invite, name, hardware)
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


async def enrol(folder: Path, invite: Invite, name: str, hardware: Callable[[], Hardware]) -> Enrolment:
    """A new enrolment, saved. Raises WrongAuthority, InviteInvalid and its kin, ProtocolMismatch, ServerUnreachable."""
    authority = await fetch_authority(invite)
    # A key from an attempt whose answer was lost is used again: the server then knows who comes back.
    key_file = folder / KEY_FILE
    key = load_key(key_file.read_bytes()) if key_file.exists() else new_key()
    write_private(key_file, key_pem(key))
    request = EnrolRequest(
        protocol=PROTOCOL,
        token=invite.token,
        csr_pem=signing_request(key),
        name=name,
        hardware=await asyncio.to_thread(hardware),
    )
    with naming_server(invite.base_url):
        async with httpx.AsyncClient(verify=client_context(authority), timeout=TIMEOUT, trust_env=False) as http:
            response = await http.post(
                f"{invite.base_url}/workers",
                content=request.model_dump_json(),
                headers={"Content-Type": "application/json"},
            )
        await raise_for_problem(response)
    reply = parsed(response, EnrolReply)
    _check_certificate(reply.certificate_pem, key, invite.base_url)
    identity = Identity(key_pem(key), reply.certificate_pem.encode(), authority)
    enrolment = Enrolment(invite.base_url, reply.run_id, reply.token, identity)
    enrolment.save(folder)
    logger.info("enrolled worker=%s server=%s", reply.worker_id, invite.base_url)
    return enrolment


async def fetch_authority(invite: Invite) -> bytes:
    """The authority's certificate (PEM), proven by the invite's hash; nothing secret has been sent."""
    with naming_server(invite.base_url):
        async with httpx.AsyncClient(verify=unverified_context(), timeout=TIMEOUT, trust_env=False) as http:
            response = await http.get(f"{invite.base_url}/ca.pem")
        await raise_for_problem(response)
    try:
        same = same_authority(response.content, invite.authority_sha256)
    except Unusable as error:
        raise ServerUnreachable(f"{invite.base_url} is not a Legion server: it has no authority to show") from error
    if not same:
        raise WrongAuthority(f"{invite.base_url} shows another certificate authority than the invite names")
    return response.content


def renewed(folder: Path, enrolment: Enrolment, certificate_pem: str) -> Enrolment:
    """The enrolment with a new certificate for the same key, saved."""
    old = enrolment.identity
    _check_certificate(certificate_pem, load_key(old.key_pem), enrolment.base_url)
    identity = Identity(old.key_pem, certificate_pem.encode(), old.authority_pem)
    new = Enrolment(enrolment.base_url, enrolment.run_id, enrolment.token, identity)
    new.save(folder)
    return new


def _check_certificate(certificate_pem: str, key: PrivateKey, base_url: str) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    except ValueError as error:
        raise ProtocolMismatch(f"{base_url} sent a certificate that cannot be read") from error
    if certificate.public_key() != key.public_key():
        raise WrongAuthority(f"{base_url} sent a certificate for another key")
