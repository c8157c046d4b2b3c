"""Joining a server, and having its certificate renewed. Not imported by an agent at rest: cryptography takes 10 MB.

The invite's token travels only to a server that proved to be the one the invite names, and the key never leaves.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
from cryptography import x509

from legion.errors import ProtocolMismatch, ServerUnreachable, Unusable, WrongAuthority
from legion.identity import (
    KEY_FILE,
    Identity,
    Invite,
    client_context,
    same_authority,
    unverified_context,
    write_private,
)
from legion.keys import PrivateKey, key_pem, load_key, new_key, signing_request
from legion.messages import PROTOCOL, EnrolReply, EnrolRequest, Hardware
from legion.tls_transport import TlsTransport
from legion_client.agent.backoff import persistently
from legion_client.agent.coordinator import TIMEOUT, Coordinator, naming_server, parsed, raise_for_problem
from legion_client.agent.enrolment import Enrolment

logger = logging.getLogger(__name__)


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
        async with _client(client_context(authority)) as http:
            response = await http.post(
                f"{invite.base_url}/workers",
                content=request.model_dump_json(),
                headers={"Content-Type": "application/json"},
            )
        await raise_for_problem(response)
    reply = parsed(response, EnrolReply)
    _check_certificate(reply.certificate_pem, key, invite.base_url)
    identity = Identity(key_pem(key), reply.certificate_pem.encode(), authority)
    enrolment = Enrolment(invite.base_url, reply.run_id, reply.token, identity, reply.worker_id)
    enrolment.save(folder)
    logger.info("enrolled worker=%s server=%s", reply.worker_id, invite.base_url)
    return enrolment


async def fetch_authority(invite: Invite) -> bytes:
    """The authority's certificate (PEM), proven by the invite's hash; nothing secret has been sent."""
    with naming_server(invite.base_url):
        async with _client(unverified_context()) as http:
            response = await http.get(f"{invite.base_url}/ca.pem")
        await raise_for_problem(response)
    try:
        same = same_authority(response.content, invite.authority_sha256)
    except Unusable as error:
        raise ServerUnreachable(f"{invite.base_url} is not a Legion server: it has no authority to show") from error
    if not same:
        raise WrongAuthority(f"{invite.base_url} shows another certificate authority than the invite names")
    return response.content


async def renew(folder: Path, enrolment: Enrolment, server: Coordinator) -> Enrolment:
    """The enrolment with a certificate that the server signs anew, saved."""
    request = signing_request(load_key(enrolment.identity.key_pem))
    reply = await persistently("certificate", server.renew, request)
    return renewed(folder, enrolment, reply.certificate_pem)


def renewed(folder: Path, enrolment: Enrolment, certificate_pem: str) -> Enrolment:
    """The enrolment with a new certificate for the same key, saved."""
    old = enrolment.identity
    _check_certificate(certificate_pem, load_key(old.key_pem), enrolment.base_url)
    identity = Identity(old.key_pem, certificate_pem.encode(), old.authority_pem)
    new = replace(enrolment, identity=identity)
    new.save(folder)
    return new


def _check_certificate(certificate_pem: str, key: PrivateKey, base_url: str) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    except ValueError as error:
        raise ProtocolMismatch(f"{base_url} sent a certificate that cannot be read") from error
    if certificate.public_key() != key.public_key():
        raise WrongAuthority(f"{base_url} sent a certificate for another key")


def _client(context: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=TlsTransport(verify=context, trust_env=False), timeout=TIMEOUT, trust_env=False)
