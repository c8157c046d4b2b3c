"""Requests to a server that does not lead go on to the one that does, and its answers come back; both as streams.

The forwarder proves itself with a secret that follows from the authority's key, and says who its client is. So limits
by address, and addresses of workers, are what they would be with the leader itself.
"""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator

import httpx
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from legion.errors import LegionError, NoLeader
from legion.identity import client_context
from legion.tls_transport import TlsTransport
from legion.unreached import why
from legion_server.api.problems import place_of, response_to
from legion_server.backend import Backend
from legion_server.node import Node
from legion_server.store.leadership import Leader

logger = logging.getLogger(__name__)

PROOF = b"legion-forwarder"  # the secret
CLIENT = b"legion-client"  # [host, port, scheme] as JSON
PURPOSE = "legion forwarder"
# What every server answers itself. Of pages and reads those that say nothing that must be newer than two seconds.
OWN_PATHS = frozenset({"/health/live", "/health/ready", "/ws/events", "/ca.pem", "/openapi.json", "/metrics/server"})
OWN_READS = frozenset({"/", "/status", "/metrics/curve"})
OWN_READS_BELOW = ("/static/", "/parts/", "/leaderboard", "/boards/", "/volunteers/", "/teams", "/certificates/")
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
UNTRUSTED = frozenset((PROOF, CLIENT))
ADDRESSES = frozenset((b"x-forwarded-for", b"x-forwarded-proto"))  # answered to already
CONNECT_S = 3.0
ANSWER_S = 660.0  # a change of configuration is answered once its data is prepared
IDLE_S = 30.0  # shorter than the leader keeps a connection
MOST_CONNECTIONS = 1000


class Forwarding:
    """ASGI middleware around everything else. Nothing is forwarded twice."""

    def __init__(self, app: ASGIApp, node: Node) -> None:
        self._app = app
        self._node = node
        self._http: httpx.AsyncClient | None = None
        self._known_secret: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._node.is_alone:
            await self._app(scope, receive, send)
            return
        try:
            scope, is_forwarded = self._believed(scope)
            if self._node.leads or self._is_own(scope):
                if scope["type"] == "websocket":
                    await self._node.known_lately()
                await self._app(scope, receive, send)
                return
            if is_forwarded or scope["type"] != "http":
                raise NoLeader("this server does not lead")
            await self._forward(self._node.leader_elsewhere(), scope, receive, send)
        except LegionError as error:
            await response_to(error)(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        path = str(scope["path"])
        if self._node.backend is None:
            return path in ("/health/live", "/health/ready")
        # Whose browser it is decides the leader, which also writes down when it came.
        is_known = any(name in (b"cookie", b"authorization") for name, _ in scope["headers"])
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and not is_known
        return path in OWN_PATHS or (reads and (path in OWN_READS or path.startswith(OWN_READS_BELOW)))

    def _believed(self, scope: Scope) -> tuple[Scope, bool]:
        """The scope with the client that a forwarder names, and whether one does. Nobody else may name one."""
        headers = scope["headers"]
        proof = next((value for name, value in headers if name == PROOF), None)
        client = next((value for name, value in headers if name == CLIENT), None)
        if proof is None and client is None:
            return scope, False
        clean: Scope = {**scope, "headers": [pair for pair in headers if pair[0] not in UNTRUSTED]}
        if proof is None or client is None or not hmac.compare_digest(proof, self._secret()):
            return clean, False
        host, port, scheme = json.loads(client)
        return {**clean, "client": (host, port), "scheme": scheme}, True

    def _secret(self) -> bytes:
        """NoLeader while the server is starting."""
        if self._known_secret is None:
            self._known_secret = self._backend().authority.secret(PURPOSE).encode()
        return self._known_secret

    def _backend(self) -> Backend:
        if self._node.backend is None:
            raise NoLeader("this server is starting")
        return self._node.backend

    async def _forward(self, leader: Leader, scope: Scope, receive: Receive, send: Send) -> None:
        """NoLeader when the leader cannot be reached, or goes before it has answered."""
        body = _Body(receive, scope["headers"])
        request = self._client().build_request(
            scope["method"],
            _url(leader, scope),
            headers=self._headers(scope),
            content=body.pieces() if body.is_there else None,
        )
        started = False
        try:
            answer = await self._client().send(request, stream=True)
            try:
                headers = [pair for pair in answer.headers.raw if pair[0].lower() not in HOP_BY_HOP]
                await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
                started = True
                await _answer(answer, body, send)
            finally:
                await answer.aclose()
        except httpx.TransportError as error:
            if started:
                # Half an answer is out: only a broken connection tells the client that it is not whole.
                raise
            raise NoLeader(f"the leading server cannot be reached: {why(error)}") from error
        except ClientDisconnect:
            logger.info("caller hung up route=%s", place_of(scope))

    def _headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        gone = HOP_BY_HOP | UNTRUSTED | ADDRESSES
        host, port = scope["client"] or ("unknown", 0)
        named = json.dumps([host, port, scope["scheme"]]).encode()
        headers = [pair for pair in scope["headers"] if pair[0] not in gone]
        return [*headers, (PROOF, self._secret()), (CLIENT, named)]

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(
                transport=TlsTransport(
                    verify=client_context(self._backend().authority.certificate_pem),
                    trust_env=False,
                    limits=httpx.Limits(max_connections=MOST_CONNECTIONS, keepalive_expiry=IDLE_S),
                ),
                timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
                trust_env=False,
            )
            self._http.headers.clear()  # the client's own say what they say
        return self._http


class _Body:
    """A request's body as it comes, and then whether the client is still there."""

    def __init__(self, receive: Receive, headers: list[tuple[bytes, bytes]]) -> None:
        names = dict(headers)
        self.is_there = b"transfer-encoding" in names or names.get(b"content-length", b"0") != b"0"
        self._receive = receive

    async def pieces(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def until_gone(self) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await self._receive()


async def _answer(answer: httpx.Response, body: _Body, send: Send) -> None:
    """The body of the leader's answer, as long as the client is there."""

    async def copy() -> None:
        async for piece in answer.aiter_raw():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    copying, gone = asyncio.ensure_future(copy()), asyncio.ensure_future(body.until_gone())
    try:
        await asyncio.wait({copying, gone}, return_when=asyncio.FIRST_COMPLETED)
        if copying.done():
            await copying
    finally:
        copying.cancel()
        gone.cancel()
        await asyncio.gather(copying, gone, return_exceptions=True)


def _url(leader: Leader, scope: Scope) -> httpx.URL:
    host = f"[{leader.host}]" if ":" in leader.host else leader.host
    query = scope["query_string"]
    target = scope.get("raw_path") or scope["path"].encode()
    return httpx.URL(f"https://{host}:{leader.port}").copy_with(raw_path=target + (b"?" + query if query else b""))
