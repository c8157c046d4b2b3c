"""Enrolment, heartbeats, leaving."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, status

from legion.errors import InviteInvalid, Refused, Unusable
from legion.ids import WorkerId
from legion.messages import (
    Endpoint,
    EnrolReply,
    EnrolRequest,
    Heartbeat,
    HeartbeatReply,
    InviteReply,
    InviteRequest,
    RenewReply,
    RenewRequest,
    WorkersSummary,
    WorkerView,
)
from legion.reports import CreditView
from legion_server.api.deps import Admin, Anyone, AWorker, BackendDep, Known, address_of
from legion_server.api.problems import answers
from legion_server.auth.tokens import new_token, token_sha256
from legion_server.domain import membership
from legion_server.domain.reachability import EVERYWHERE
from legion_server.service.coordinator import check_protocol

router = APIRouter(tags=["workers"])

Id = Annotated[WorkerId, Path(pattern="^[a-z2-7]{32}$", description="The worker's id.")]


@router.get("/workers", response_model=list[WorkerView] | WorkersSummary, responses=answers())
async def list_workers(backend: BackendDep, caller: Anyone) -> list[WorkerView] | WorkersSummary:
    """Every worker for the admin, numbers for everybody else."""
    workers = backend.coordinator.state.workers
    if caller.is_admin:
        return [membership.view(worker) for worker in sorted(workers.values(), key=lambda w: w.worker_id)]
    return membership.summary(workers)


@router.post("/workers", status_code=status.HTTP_201_CREATED, responses=answers(403, 426))
async def enrol(request: Request, body: EnrolRequest, backend: BackendDep) -> EnrolReply:
    """Join with an invite. The same worker may repeat a request whose answer was lost; that is one use.

    A worker whose access was revoked needs an invite that it has not used before.
    """
    address, now = address_of(request), backend.clock()
    backend.failures.check(address, now)
    check_protocol(body.protocol)
    worker_id, certificate, until = backend.authority.sign_worker(body.csr_pem, now)
    try:
        new_invite = await backend.store.use_invite(token_sha256(body.token), worker_id, now)
    except InviteInvalid:
        backend.failures.failed(address, now)
        raise
    token = new_token()
    name = membership.printable(body.name, 64)
    await backend.coordinator.enrol(worker_id, name, body.hardware, token_sha256(token), until, new_invite=new_invite)
    return EnrolReply(
        worker_id=worker_id,
        run_id=backend.coordinator.run.run_id,
        certificate_pem=certificate,
        authority_pem=backend.authority.certificate_pem,
        token=token,
    )


@router.post("/workers/{worker_id}/heartbeat", responses=answers(403, 404, 409, 426))
async def heartbeat(
    request: Request, worker_id: Id, body: Heartbeat, backend: BackendDep, caller: AWorker
) -> HeartbeatReply:
    """Still here. A host that means 'everywhere' is replaced by the address this request came from."""
    _only_self(worker_id, caller)
    doubled = backend.doubles.heard(worker_id, body.instance, address_of(request))
    if body.endpoint is not None and body.endpoint.host in EVERYWHERE:
        seen = Endpoint(host=address_of(request), port=body.endpoint.port)
        body = body.model_copy(update={"endpoint": seen})
    reply = backend.link_book.with_orders(worker_id, await backend.coordinator.heartbeat(worker_id, body))
    return reply.model_copy(update={"doubled": doubled})


@router.post("/workers/{worker_id}/certificate", responses=answers(403, 404))
async def renew(worker_id: Id, body: RenewRequest, backend: BackendDep, caller: AWorker) -> RenewReply:
    """A new certificate for the same key, for another 30 days."""
    _only_self(worker_id, caller)
    now = backend.clock()
    signed, certificate, until = backend.authority.sign_worker(body.csr_pem, now)
    if signed != worker_id:
        raise Unusable("the signing request is for another key than this worker's", hint="Join again to change keys.")
    await backend.coordinator.renewed(worker_id, until)
    return RenewReply(certificate_pem=certificate)


@router.get("/workers/{worker_id}/credit", responses=answers(403, 404))
async def credit(worker_id: Id, backend: BackendDep, caller: Known) -> CreditView:
    """What the run has accepted of a worker's work, and its place among all."""
    if not caller.is_admin:
        _only_self(worker_id, caller.worker_id)
    backend.coordinator.worker(worker_id)
    return await backend.metrics.credit(worker_id)


@router.delete("/workers/{worker_id}", status_code=status.HTTP_204_NO_CONTENT, responses=answers(403, 404))
async def remove(worker_id: Id, backend: BackendDep, caller: Known) -> Response:
    """A worker leaves (it may come back), or the admin revokes its access."""
    if caller.is_admin:
        await backend.coordinator.revoke(worker_id)
        await backend.audit.record("worker.revoke", worker_id)
    else:
        _only_self(worker_id, caller.worker_id)
        await backend.coordinator.leave(worker_id)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.post("/invites", status_code=status.HTTP_201_CREATED, responses=answers(403), tags=["admin"])
async def invite(body: InviteRequest, backend: BackendDep, _: Admin) -> InviteReply:
    """An invite for `uses` workers, or relays. It is shown once: the server keeps only its hash."""
    made = await backend.invites.make(body.uses, body.valid_s, relay=body.relay)
    await backend.audit.record("invite.make", made.known_by[:12], f"for {body.uses} {made.purpose}s")
    return InviteReply(invite=made.text, expires_at=made.expires_at)


def _only_self(worker_id: WorkerId, caller: WorkerId | None) -> None:
    if caller != worker_id:
        raise Refused("a worker may speak only for itself", hint="Use the id that enrolment returned.")
