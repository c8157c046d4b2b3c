"""What callers may ask for, before anything looks at it: how much a request sends, and how many there are.

Slices and blobs have limits of size of their own, from plan and report.
"""

import logging
import re
from collections import Counter

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from legion.errors import LegionError, TooManyRequests, Unusable
from legion_server.api.deps import address_of
from legion_server.api.problems import answer_to, response_to
from legion_server.auth.limits import RequestLimit, line_of
from legion_server.auth.tokens import same, token_sha256
from legion_server.backend import Backend
from legion_server.node import Node
from legion_server.settings import parsed

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**10
MOST_BYTES_OF_MUCH = 8 * 2**20
# What may be long: shapes of large models (some 100 kB), records of an outage, what a round's updates include.
_LONG = re.compile(
    r"/metrics|/network/probe|/training/config|/training/rounds/.*|/admin/config(/check)?"
    r"|/(workers|relays)/[^/]+/heartbeat"
)
_OWN_LIMIT = re.compile(r"/checkpoints/[^/]+/slices/.*|/blobs/.*")
MOST_STREAMS = 100  # of events, open at a time, for one caller
STREAMS_RETRY_S = 30.0


class BodyTooLarge(Unusable):
    slug = "body-too-large"
    title = "The request's body is too large"
    status = 413


def most_bytes(method: str, path: str) -> int | None:
    """Of a request's body; None where the route itself knows better."""
    if method == "PUT" and _OWN_LIMIT.fullmatch(path):
        return None
    is_long = method in ("POST", "PUT") and _LONG.fullmatch(path)
    return MOST_BYTES_OF_MUCH if is_long else MOST_BYTES


class BodyLimit:
    """ASGI middleware: answers 413 before, or ends the body when, it becomes too large."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = most_bytes(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if most is None:
            await self._app(scope, receive, send)
            return
        error = BodyTooLarge(f"a request may have {most} bytes here")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            await response_to(error)(scope, receive, send)
            return
        await self._counting(error, most, scope, receive, send)

    async def _counting(self, error: BodyTooLarge, most: int, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer to a body that becomes too large is ours: the framework's would say that it cannot be parsed."""
        received, started = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            # To what answers, the caller is gone: it stops, and what it would say of that is not sent.
            return message if received <= most else {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            nonlocal started
            if received <= most or started:
                started = True
                await send(message)

        await self._app(scope, counted, sent)
        if received > most and not started:
            await response_to(error)(scope, receive, send)


class RateLimit:
    """ASGI middleware: requests a second and event streams of one caller; 429 to those who ask for more.

    A caller is a token that this server has given, or the line that a request comes from. This machine itself is not
    limited, so a proxy on it has to be named: else it would open the door to everybody.
    """

    def __init__(self, app: ASGIApp, node: Node) -> None:
        settings = node.settings
        self._app = app
        self._node = node
        self._of_lines = RequestLimit(settings.address_requests_per_s)
        self._of_tokens = RequestLimit(settings.token_requests_per_s)
        self._streams: Counter[str] = Counter()
        self._has_warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        backend = self._node.backend
        if scope["type"] not in ("http", "websocket") or backend is None:
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        try:
            caller = self._admitted(connection, backend)
        except TooManyRequests as error:
            await _refuse(error, scope, receive, send)
            return
        if scope["type"] == "http" or caller is None:
            await self._app(scope, receive, send)
            return
        self._streams[caller] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams[caller] -= 1
            if not self._streams[caller]:
                del self._streams[caller]

    def _admitted(self, connection: HTTPConnection, backend: Backend) -> str | None:
        """Who asks; None for those who are not limited. TooManyRequests."""
        address = address_of(connection)
        if self._is_ours(connection, address):
            return None
        known = known_as(connection, backend)
        caller = known or line_of(address)
        (self._of_tokens if known else self._of_lines).take(caller, backend.clock())
        if connection.scope["type"] == "websocket" and self._streams[caller] >= MOST_STREAMS:
            raise TooManyRequests(f"you have {MOST_STREAMS} event streams open already", retry_after_s=STREAMS_RETRY_S)
        return caller

    def _is_ours(self, connection: HTTPConnection, address: str) -> bool:
        """Whether a request comes from this machine, and not through a proxy on it that nobody has named."""
        found = parsed(address)
        if found is not None and not found.is_loopback:
            return False
        if "x-forwarded-for" not in connection.headers:
            return True
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "proxy not named: all that comes through it counts as one caller; set LEGION_TRUSTED_PROXIES"
            )
        return False


def known_as(connection: HTTPConnection, backend: Backend) -> str | None:
    """Whose token a program shows; None where it shows none, or one that is not good here."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        token = connection.query_params.get("token", "") if connection.scope["type"] == "websocket" else ""
    if not token:
        return None
    if same(token, backend.admin_token_sha256):
        return "admin"
    try:
        worker = backend.coordinator.worker_by_token(token_sha256(token))
    except LegionError:
        return None  # it was taken back
    if worker is not None:
        return worker.worker_id
    return backend.relays.by_token(token_sha256(token))


async def _refuse(error: LegionError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await answer_to(Request(scope), error)(scope, receive, send)
    else:
        await WebSocket(scope, receive, send).send_denial_response(response_to(error))
