"""The server's REST interface as typed calls. Transport errors and problem responses come out as LegionErrors."""

import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from legion.config import RunConfig
from legion.errors import (
    LegionError,
    ProtocolMismatch,
    ServerUnreachable,
    TooManyRequests,
    Unavailable,
    WrongAuthority,
    by_slug,
)
from legion.ids import Epoch, WorkerId
from legion.links import LinksReport
from legion.messages import (
    CheckpointManifest,
    DatasetManifest,
    Endpoint,
    Health,
    Heartbeat,
    HeartbeatReply,
    Plan,
    ProbeReply,
    Problem,
    RenewReply,
    RenewRequest,
)
from legion.relaying import ReachReply, ReachRequest, RelayView
from legion.reports import CreditView, LossCurve, MetricsReport, MetricsView
from legion.rounds import Handover, RootReport, RoundsPage, SpanReport
from legion.tls_transport import TlsTransport
from legion.unreached import why
from legion_client.agent.backoff import noted
from legion_client.agent.cache import Download
from legion_client.agent.metered import UNHELD, MeteredTransport
from legion_client.agent.traffic import Traffic
from legion_client.engine.protocol import SliceWritten

CHUNK_BYTES = 2**20
PIECE_BYTES = 2**16  # of a burst: many fit into half a second of a slow line
# A worker that waits longer than this on a silent connection has lost it.
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
# Longer than from one heartbeat to the next, as every new connection costs both sides a handshake; shorter than the
# server keeps it (KEEP_ALIVE_S): else it closes as we speak.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=45.0)
SERVERS_TROUBLE = (httpx.codes.INTERNAL_SERVER_ERROR, httpx.codes.INSUFFICIENT_STORAGE)
SOMEBODY_ELSE = (
    "Somebody is in between, such as the login page of a hotel, or the server was set up anew: then ask its operator "
    "for a new invite. Nothing was sent; it is tried again."
)
SERVERS_TROUBLE_HINT = "The server's operator must act: free disk space there, or see its log. Nothing is wrong here."

RELAYS: TypeAdapter[list[RelayView]] = TypeAdapter(list[RelayView])
Reply = TypeVar("Reply", bound=BaseModel)


class Coordinator:
    """One enrolled worker's view of its server. Close it, or use it in `async with`."""

    def __init__(
        self,
        base_url: str,
        context: ssl.SSLContext,
        worker_id: WorkerId,
        token: str,
        traffic: Traffic | None = None,
    ) -> None:
        """`traffic`: that all calls count for, and whose limits they keep to."""
        self.base_url = base_url
        self.worker_id = worker_id
        self.local_host: str | None = None  # our address on the way to the server, once there was an answer
        self._http = httpx.AsyncClient(
            base_url=base_url,
            # trust_env: a proxy from the environment would only see a tunnel it cannot open.
            transport=MeteredTransport(
                TlsTransport(verify=context, trust_env=False, limits=LIMITS),
                traffic if traffic is not None else Traffic(),
            ),
            timeout=TIMEOUT,
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def heartbeat(self, beat: Heartbeat) -> HeartbeatReply:
        return await self._post(f"/workers/{self.worker_id}/heartbeat", beat, HeartbeatReply)

    async def renew(self, csr_pem: str) -> RenewReply:
        return await self._post(f"/workers/{self.worker_id}/certificate", RenewRequest(csr_pem=csr_pem), RenewReply)

    async def leave(self) -> None:
        """The server forgets where we are; the enrolment stays valid."""
        await self._call("DELETE", f"/workers/{self.worker_id}")

    async def probe(self, size_bytes: int) -> ProbeReply:
        """A burst of so much, past the volunteer's limits: what they are a share of is measured so."""
        headers = {"Content-Length": str(size_bytes)}
        response = await self._call(
            "POST", "/network/probe", headers=headers, content=noise(size_bytes), extensions={UNHELD: True}
        )
        return parsed(response, ProbeReply)

    async def reachability(self, endpoint: Endpoint) -> ReachReply:
        """Whether the server can reach us there, or at the address that it sees us at."""
        path = f"/workers/{self.worker_id}/reachability"
        return await self._post(path, ReachRequest(endpoint=endpoint), ReachReply)

    async def relays(self) -> list[RelayView]:
        return RELAYS.validate_json((await self._call("GET", "/relays")).content)

    async def ping(self) -> None:
        """A round trip."""
        await self._get("/health", Health)

    async def burst(self, size_bytes: int) -> None:
        """The other way, of so much."""
        await self._call("GET", f"/network/probe?size_bytes={size_bytes}")

    async def report_links(self, report: LinksReport) -> None:
        await self._send("POST", "/network/links", report)

    async def config(self) -> RunConfig:
        return await self._get("/training/config", RunConfig)

    async def plan(self) -> Plan:
        return await self._get("/training/plan", Plan)

    async def manifest(self) -> DatasetManifest:
        return await self._get("/data/manifest", DatasetManifest)

    async def report(self, report: MetricsReport) -> None:
        await self._send("POST", "/metrics", report)

    async def metrics(self) -> MetricsView:
        """The run's figures and its newest steps."""
        return await self._get("/metrics", MetricsView)

    async def curve(self, points: int) -> LossCurve:
        """The loss of the whole run."""
        return await self._get(f"/metrics/curve?points={points}", LossCurve)

    async def credit(self) -> CreditView:
        """What the run has accepted of ours."""
        return await self._get(f"/workers/{self.worker_id}/credit", CreditView)

    async def rounds(self, since: int) -> RoundsPage:
        """Records and plans from round `since` on, oldest first."""
        return await self._get(f"/training/rounds?since={since}", RoundsPage)

    async def report_span(self, report: SpanReport) -> None:
        await self._send("POST", f"/training/rounds/{report.round}/spans", report)

    async def hand_over(self, handover: Handover) -> None:
        await self._send("POST", f"/training/rounds/{handover.round}/handover", handover)

    async def report_root(self, report: RootReport) -> None:
        await self._send("POST", "/training/rounds/roots", report)

    async def upload_update(self, sha256: str, size_bytes: int, path: Path) -> None:
        """Streamed from disk; the server checks the whole."""
        await self._call(
            "PUT", f"/blobs/{sha256}", headers={"Content-Length": str(size_bytes)}, content=_chunks_of(path)
        )

    async def checkpoint(self, step: int) -> CheckpointManifest:
        return await self._get(f"/checkpoints/{step}", CheckpointManifest)

    def download(self, path: str) -> Download:
        """The file at `path` from any offset on; for `Cache.fetch`."""

        async def chunks(offset: int) -> AsyncIterator[bytes]:
            with self._naming():
                async with self._http.stream("GET", path, headers={"Range": f"bytes={offset}-"}) as response:
                    if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                        return  # all of it is here already
                    await raise_for_problem(response)
                    if offset and response.status_code != httpx.codes.PARTIAL_CONTENT:
                        raise ProtocolMismatch(f"{self.base_url}{path} does not answer to ranges")
                    async for chunk in response.aiter_bytes(CHUNK_BYTES):
                        yield chunk

        return chunks

    async def read_range(self, path: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes [start, stop) of the file at `path`, as they come."""
        with self._naming():
            async with self._http.stream("GET", path, headers={"Range": f"bytes={start}-{stop - 1}"}) as response:
                await raise_for_problem(response)
                if response.status_code != httpx.codes.PARTIAL_CONTENT:
                    raise ProtocolMismatch(f"{self.base_url}{path} does not answer to ranges")
                async for chunk in response.aiter_bytes(CHUNK_BYTES):
                    yield chunk

    async def upload_slice(self, epoch: Epoch, written: SliceWritten) -> None:
        """Streamed from disk. The server answers once it has checked and stored the whole."""
        headers = {
            "Content-Length": str(written.size_bytes),
            "Legion-Epoch": str(epoch),
            "Legion-Tokens": str(written.tokens),
            "Legion-Sha256": written.sha256,
        }
        path = f"/checkpoints/{written.step}/slices/{written.rank}"
        await self._call("PUT", path, headers=headers, content=_chunks_of(written.path))

    async def ask(self, method: str, path: str, kind: type[Reply], body: BaseModel | None = None) -> Reply:
        """Anything else that has an answer."""
        return parsed(await self.tell(method, path, body), kind)

    async def tell(self, method: str, path: str, body: BaseModel | None = None) -> httpx.Response:
        """And what has none."""
        return await (self._call(method, path) if body is None else self._send(method, path, body))

    def _naming(self) -> AbstractContextManager[None]:
        return naming_server(self.base_url, proven=self.local_host is not None)

    async def _get(self, path: str, kind: type[Reply]) -> Reply:
        return parsed(await self._call("GET", path), kind)

    async def _post(self, path: str, body: BaseModel, kind: type[Reply]) -> Reply:
        return parsed(await self._send("POST", path, body), kind)

    async def _send(self, method: str, path: str, body: BaseModel) -> httpx.Response:
        json_body = body.model_dump_json().encode()
        return await self._call(method, path, headers={"Content-Type": "application/json"}, content=json_body)

    async def _call(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        extensions: dict[str, Any] | None = None,
    ) -> httpx.Response:
        request = self._http.stream(method, path, headers=headers, content=content, extensions=extensions)
        with self._naming():
            async with request as response:
                # Before the body is read: whoever answers may close the connection with its last byte.
                local_address = response.extensions["network_stream"].get_extra_info("client_addr")
                await response.aread()
            await raise_for_problem(response)
        self.local_host = str(local_address[0])
        return response


@contextmanager
def naming_server(base_url: str, *, proven: bool = False) -> Iterator[None]:
    """httpx's transport errors as ours, with the server's address.

    A wrong certificate is WrongAuthority, unless the server has `proven` itself before: then somebody, as a hotel's
    login page, is in the way for a while, and that is no reason to end a run.
    """
    try:
        yield
    except httpx.TransportError as error:
        reason = _certificate_problem(error)
        if reason is not None and not proven:
            raise WrongAuthority(
                f"{base_url} does not prove to be the server that this computer joined: {reason}"
            ) from error
        if reason is not None:
            raise ServerUnreachable(
                f"{base_url} does not prove any more to be the server that this computer joined: {reason}",
                hint=SOMEBODY_ELSE,
            ) from error
        raise ServerUnreachable(f"{base_url} cannot be reached: {why(error)}") from error


async def raise_for_problem(response: httpx.Response) -> None:
    if response.is_success:
        return
    await response.aread()
    where = f"{response.request.method} {response.request.url.path}"
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError as error:
        # Not Legion's answer: a proxy in between, or another program on that port.
        unexplained = f"{where} was answered with status {response.status_code} and no explanation"
        raise noted(_unexplained(response.status_code)(unexplained), response.headers) from error
    if response.status_code in SERVERS_TROUBLE:
        # Its hint is for the server's machine, and its operator can mend it while we wait.
        trouble = f"the server cannot take {where} just now: {problem.detail}"
        raise noted(Unavailable(trouble, hint=SERVERS_TROUBLE_HINT), response.headers)
    raise noted(by_slug(problem.slug, problem.detail, hint=problem.hint), response.headers)


def _unexplained(status: int) -> type[LegionError]:
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return TooManyRequests
    return Unavailable if status >= httpx.codes.INTERNAL_SERVER_ERROR else ProtocolMismatch


def _certificate_problem(error: BaseException) -> str | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        cause = cause.__cause__ or cause.__context__
    return None


def parsed(response: httpx.Response, kind: type[Reply]) -> Reply:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        where = f"{response.request.method} {response.request.url.path}"
        raise ProtocolMismatch(f"{where} was answered with what is no {kind.__name__}") from error


async def noise(size_bytes: int) -> AsyncIterator[bytes]:
    """Which nobody on the way compresses. In pieces: as a whole, a burst would cost an agent at rest 25 MB for ever."""
    for start in range(0, size_bytes, PIECE_BYTES):
        yield os.urandom(min(PIECE_BYTES, size_bytes - start))


async def _chunks_of(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
