"""What a relay remembers: its key and certificate, the authority, its server and token; all owner-only, in one folder.

The invite's token travels only to a server that proved to be the one the invite names, and the key never leaves.
"""

from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography import x509
from pydantic import BaseModel, ValidationError

from legion.errors import Unusable, WrongAuthority
from legion.identity import (
    CERTIFICATE_FILE,
    KEY_FILE,
    Identity,
    Invite,
    client_context,
    same_authority,
    unverified_context,
    write_private,
)
from legion.ids import RelayId
from legion.keys import key_pem, load_key, new_key, signing_request
from legion.messages import PROTOCOL
from legion.relaying import RelayEnrolReply, RelayEnrolRequest
from legion_server.relay.coordinator import TIMEOUT_S, Coordinator, answered, naming_server

ENROLMENT_FILE = "relay.json"  # written last: without it the folder counts as empty


class _Remembered(BaseModel, frozen=True, extra="forbid"):
    base_url: str
    token: str


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A server that knows this relay."""

    folder: Path
    base_url: str
    token: str
    identity: Identity

    @property
    def relay_id(self) -> RelayId:
        return RelayId(self.identity.worker_id)

    @classmethod
    def load(cls, folder: Path) -> "Enrolment | None":
        """None before the first enrolment; Unusable when it is damaged."""
        path = folder / ENROLMENT_FILE
        if not path.exists():
            return None
        try:
            remembered = _Remembered.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise Unusable(f"{path} is damaged", hint="Remove the folder and enrol with a new invite.") from error
        return cls(folder, remembered.base_url, remembered.token, Identity.load(folder))


def enrol(folder: Path, invite: Invite, name: str) -> Enrolment:
    """A new enrolment, saved. Raises WrongAuthority, InviteInvalid and its kin, ProtocolMismatch, ServerUnreachable."""
    authority = _authority(invite)
    # A key from an attempt whose answer was lost is used again: the server then knows who comes back.
    key_file = folder / KEY_FILE
    key = load_key(key_file.read_bytes()) if key_file.exists() else new_key()
    write_private(key_file, key_pem(key))
    request = RelayEnrolRequest(protocol=PROTOCOL, token=invite.token, csr_pem=signing_request(key), name=name)
    with (
        naming_server(invite.base_url),
        httpx.Client(verify=client_context(authority), timeout=TIMEOUT_S, trust_env=False) as http,
    ):
        reply = answered(
            http.post(
                f"{invite.base_url}/relays",
                content=request.model_dump_json(),
                headers={"Content-Type": "application/json"},
            )
        )
    told = RelayEnrolReply.model_validate_json(reply)
    identity = Identity(key_pem(key), told.certificate_pem.encode(), authority)
    identity.save(folder)
    remembered = _Remembered(base_url=invite.base_url, token=told.token)
    write_private(folder / ENROLMENT_FILE, remembered.model_dump_json().encode())
    return Enrolment(folder, invite.base_url, told.token, identity)


async def renew(enrolment: Enrolment, server: Coordinator) -> None:
    """A new certificate for the same key, saved once it is seen to fit. WrongAuthority, and what `server` raises."""
    old = enrolment.identity
    key = load_key(old.key_pem)
    certificate_pem = (await server.renew(signing_request(key))).encode()
    try:
        fits = x509.load_pem_x509_certificate(certificate_pem).public_key() == key.public_key()
    except ValueError:
        fits = False
    if not fits:
        raise WrongAuthority(f"{enrolment.base_url} sent what is no certificate for this relay's key")
    write_private(enrolment.folder / CERTIFICATE_FILE, certificate_pem)


def _authority(invite: Invite) -> bytes:
    """The authority's certificate (PEM), proven by the invite's hash; nothing secret has been sent."""
    with (
        naming_server(invite.base_url),
        httpx.Client(verify=unverified_context(), timeout=TIMEOUT_S, trust_env=False) as http,
    ):
        found = answered(http.get(f"{invite.base_url}/ca.pem"))
    if not same_authority(found, invite.authority_sha256):
        raise WrongAuthority(f"{invite.base_url} shows another certificate authority than the invite names")
    return found
