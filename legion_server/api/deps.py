"""Who calls, and what that caller may do."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from legion.errors import Refused, Unauthenticated
from legion.ids import RelayId, WorkerId
from legion_server.auth.tokens import same, token_sha256
from legion_server.backend import Backend

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="The admin's token (data_dir/admin-token) or a worker's own, from its enrolment.",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """An admin, a worker, a relay, or (none of them) anybody."""

    is_admin: bool = False
    worker_id: WorkerId | None = None
    relay_id: RelayId | None = None

    @property
    def is_known(self) -> bool:
        return self.is_admin or self.worker_id is not None


def get_backend(connection: HTTPConnection) -> Backend:
    backend = connection.app.state.backend
    assert isinstance(backend, Backend)
    return backend


def address_of(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else "unknown"


def identify(backend: Backend, token: str | None, address: str) -> Caller:
    """Unauthenticated for a token nobody has, WorkerRevoked for one taken back. No token: anybody."""
    if token is None:
        return Caller()
    if same(token, backend.admin_token_sha256):
        return Caller(is_admin=True)
    worker = backend.coordinator.worker_by_token(token_sha256(token))
    relay_id = backend.relays.by_token(token_sha256(token)) if worker is None else None
    if relay_id is not None:
        return Caller(relay_id=relay_id)
    if worker is None:
        now = backend.clock()
        backend.failures.check(address, now)
        backend.failures.failed(address, now)
        raise Unauthenticated("this token is not valid here")
    return Caller(worker_id=worker.worker_id)


def get_caller(
    connection: HTTPConnection,
    backend: Annotated[Backend, Depends(get_backend)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    return identify(backend, credentials.credentials if credentials else None, address_of(connection))


def require_admin(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
    if not caller.is_known:
        raise Unauthenticated("this needs the admin's token")
    if not caller.is_admin:
        raise Refused("only the admin may do this", hint="Send the admin's token.")
    return caller


def require_worker(caller: Annotated[Caller, Depends(get_caller)]) -> WorkerId:
    if not caller.is_known:
        raise Unauthenticated("this needs a worker's token")
    if caller.worker_id is None:
        raise Refused("only workers do this", hint="Send the token that the worker got when it enrolled.")
    return caller.worker_id


def require_relay(caller: Annotated[Caller, Depends(get_caller)]) -> RelayId:
    if caller.relay_id is not None:
        return caller.relay_id
    if caller.is_known:
        raise Refused("only relays do this", hint="Send the token that the relay got when it enrolled.")
    raise Unauthenticated("this needs a relay's token")


def require_known(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
    if not caller.is_known:
        raise Unauthenticated("this needs a worker's or the admin's token")
    return caller


BackendDep = Annotated[Backend, Depends(get_backend)]
Anyone = Annotated[Caller, Depends(get_caller)]
Admin = Annotated[Caller, Depends(require_admin)]
AWorker = Annotated[WorkerId, Depends(require_worker)]
ARelay = Annotated[RelayId, Depends(require_relay)]
Known = Annotated[Caller, Depends(require_known)]
