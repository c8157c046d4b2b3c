"""What a relay asks of its server, and tells it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from legion.errors import LegionError, NotFound, ProtocolMismatch, ServerUnreachable, WorkerRevoked, by_slug
from legion.identity import client_context
from legion.ids import WorkerId
from legion.messages import Problem, RenewReply, RenewRequest
from legion.relaying import RelayHeartbeat, RelayHeartbeatReply
from legion.tls_transport import TlsTransport
from legion.unreached import why

Reply = TypeVar("Reply", bound=BaseModel)
TIMEOUT_S = 15.0  # the server may try to reach this relay before it answers


class Coordinator:
    """Close it, or use it in `async with`."""

    def __init__(self, base_url: str, authority_pem: bytes, relay_id: str, token: str) -> None:
        self.base_url = base_url
        self._path = f"/relays/{relay_id}"
        self._http = httpx.AsyncClient(
            base_url=base_url,
            transport=TlsTransport(verify=client_context(authority_pem), trust_env=False),
            timeout=TIMEOUT_S,
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"},
        )

    async def __aenter__(self) -> "Coordinator":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def heartbeat(self, beat: RelayHeartbeat) -> RelayHeartbeatReply:
        return await self._post("heartbeat", beat, RelayHeartbeatReply)

    async def renew(self, csr_pem: str) -> str:
        """A certificate (PEM)."""
        return (await self._post("certificate", RenewRequest(csr_pem=csr_pem), RenewReply)).certificate_pem

    async def _post(self, what: str, body: BaseModel, kind: type[Reply]) -> Reply:
        with naming_server(self.base_url):
            response = await self._http.post(
                f"{self._path}/{what}", content=body.model_dump_json(), headers={"Content-Type": "application/json"}
            )
        try:
            return kind.model_validate_json(answered(response))
        except ValidationError as error:
            raise ProtocolMismatch(f"{self.base_url} answered a {what} with what is no {kind.__name__}") from error

    async def why_not(self, worker: WorkerId) -> str | None:
        """Why this worker may not register; None: it may. Other errors come out."""
        with naming_server(self.base_url):
            response = await self._http.get(f"{self._path}/workers/{worker}")
        try:
            answered(response)
        except (NotFound, WorkerRevoked) as error:
            return str(error)
        return None


@contextmanager
def naming_server(base_url: str) -> Iterator[None]:
    """httpx's transport errors as ours, with the server's address."""
    try:
        yield
    except httpx.TransportError as error:
        raise ServerUnreachable(f"{base_url} cannot be reached: {why(error)}") from error


def answered(response: httpx.Response) -> bytes:
    """The body of a successful answer, or the error that the server named."""
    if response.is_success:
        return response.content
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        raise LegionError(f"the server answered with status {response.status_code} and no explanation") from None
    raise by_slug(problem.slug, problem.detail, hint=problem.hint)
