"""How workers are reached: the dial-back test, and the relays for those that it does not find."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, status

from legion.errors import InviteInvalid, NotFound, Refused, Unusable, WorkerRevoked
from legion.ids import RelayId, WorkerId, host_name
from legion.messages import Endpoint, RenewReply, RenewRequest
from legion.relaying import (
    ReachReply,
    ReachRequest,
    RelayEnrolReply,
    RelayEnrolRequest,
    RelayHeartbeat,
    RelayHeartbeatReply,
    RelayState,
    RelayView,
    relay_name,
)
from legion_server.api.deps import Admin, ARelay, AWorker, BackendDep, Known, address_of
from legion_server.api.problems import answers
from legion_server.api.workers import Id
from legion_server.auth.tokens import new_token, relay_invite_sha256, token_sha256
from legion_server.backend import Backend
from legion_server.domain import relays as domain
from legion_server.domain.membership import printable
from legion_server.domain.reachability import EVERYWHERE
from legion_server.service.coordinator import check_protocol

router = APIRouter(tags=["network"])

OfRelay = Annotated[RelayId, Path(pattern="^[a-z2-7]{32}$", description="The relay's id.")]


@router.post("/workers/{worker_id}/reachability", responses=answers(403, 404, 503))
async def reachability(
    request: Request, worker_id: Id, body: ReachRequest, backend: BackendDep, caller: AWorker
) -> ReachReply:
    """Whether the worker can be reached from here, at the endpoint it names or at the address it calls from.

    The server opens a connection and looks for the worker's certificate; it dials public addresses only, and the one
    that the request comes from.
    """
    if caller != worker_id:
        raise Refused("a worker may speak only for itself", hint="Use the id that enrolment returned.")
    seen = address_of(request)
    endpoint, problem = await backend.dialler.find(host_name(worker_id), body.endpoint, seen)
    return ReachReply(endpoint=endpoint, seen_host=seen, problem=problem)


@router.get("/relays", responses=answers())
async def relays(backend: BackendDep, _: Known) -> list[RelayView]:
    """Relays that are heard and can be reached, with what they carry."""
    return list(backend.relays.living(backend.clock()))


@router.get("/relays/enrolled", responses=answers(403))
async def enrolled(backend: BackendDep, _: Admin) -> list[RelayState]:
    """All relays that have enrolled, also those that are not heard, with their certificates' ends."""
    return list(backend.relays.all(backend.clock()))


@router.post("/relays", status_code=status.HTTP_201_CREATED, responses=answers(403, 426))
async def enrol(request: Request, body: RelayEnrolRequest, backend: BackendDep) -> RelayEnrolReply:
    """Become a relay, with an invite for relays. The same relay may repeat a request whose answer was lost."""
    address, now = address_of(request), backend.clock()
    backend.failures.check(address, now)
    check_protocol(body.protocol)
    relay_id, certificate, until = backend.authority.sign_relay(body.csr_pem, now)
    try:
        await backend.store.use_invite(relay_invite_sha256(body.token), WorkerId(relay_id), now)
    except InviteInvalid:
        backend.failures.failed(address, now)
        raise
    token = new_token()
    backend.relays.enrol(relay_id, printable(body.name, 64), token_sha256(token), now, until)
    return RelayEnrolReply(
        relay_id=relay_id,
        certificate_pem=certificate,
        authority_pem=backend.authority.certificate_pem,
        token=token,
    )


@router.post("/relays/{relay_id}/heartbeat", responses=answers(403, 404, 426))
async def heartbeat(
    request: Request, relay_id: OfRelay, body: RelayHeartbeat, backend: BackendDep, caller: ARelay
) -> RelayHeartbeatReply:
    """What the relay carries. The reply names those of its workers whose access was taken back."""
    _only_self(relay_id, caller)
    check_protocol(body.protocol)
    seen, host = address_of(request), body.endpoint.host
    endpoint = Endpoint(host=seen if host in EVERYWHERE else host, port=body.endpoint.port)
    problem = await _problem(backend, relay_id, endpoint, seen)
    backend.relays.heard(relay_id, body.model_copy(update={"endpoint": endpoint}), problem, backend.clock())
    refused = tuple(worker for worker in body.workers if _why_not(backend, worker) is not None)
    due = domain.renewal_due(backend.relays.relay(relay_id), backend.clock())
    return RelayHeartbeatReply(refused=refused, problem=problem, certificate_renewal=due)


@router.post("/relays/{relay_id}/certificate", responses=answers(403, 404))
async def renew(relay_id: OfRelay, body: RenewRequest, backend: BackendDep, caller: ARelay) -> RenewReply:
    """A new certificate for the relay's key, for another 397 days; also when the one before has ended."""
    _only_self(relay_id, caller)
    signed, certificate, until = backend.authority.sign_relay(body.csr_pem, backend.clock())
    if signed != relay_id:
        raise Unusable("the signing request is for another key than this relay's", hint="Enrol anew to change keys.")
    backend.relays.renewed(relay_id, until)
    return RenewReply(certificate_pem=certificate)


@router.get(
    "/relays/{relay_id}/workers/{worker_id}", status_code=status.HTTP_204_NO_CONTENT, responses=answers(403, 404)
)
async def admission(relay_id: OfRelay, worker_id: Id, backend: BackendDep, caller: ARelay) -> Response:
    """Whether a worker may register at the relay: 404 for one that nobody knows, 403 for one that was revoked."""
    _only_self(relay_id, caller)
    backend.coordinator.worker(worker_id)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.delete("/relays/{relay_id}", status_code=status.HTTP_204_NO_CONTENT, responses=answers(403, 404))
async def remove(relay_id: OfRelay, backend: BackendDep, _: Admin) -> Response:
    """A relay's token is worth nothing any more, and workers are not sent there."""
    backend.relays.remove(relay_id)
    await backend.audit.record("relay.remove", relay_id)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


async def _problem(backend: Backend, relay_id: RelayId, endpoint: Endpoint, seen: str) -> str | None:
    known = backend.relays.relay(relay_id)
    if not known.dial_due(endpoint):
        return None
    found, problem = await backend.dialler.find(relay_name(relay_id), endpoint, seen)
    if found is not None and found.host != endpoint.host:
        return f"it is found at {found.host}, and not at {endpoint.host} as it says"
    return problem if found is None else None


def _why_not(backend: Backend, worker: WorkerId) -> str | None:
    try:
        backend.coordinator.worker(worker)
    except (NotFound, WorkerRevoked) as error:
        return str(error)
    return None


def _only_self(relay_id: RelayId, caller: RelayId) -> None:
    if caller != relay_id:
        raise Refused("a relay may speak only for itself", hint="Use the id that enrolment returned.")
