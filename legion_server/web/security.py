"""What protects browsers: headers, and refusals of requests that another site makes them send.

Pure ASGI, in front of every route: pages, API and WebSocket alike.
"""

from collections.abc import Callable, Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from legion.errors import LegionError, Refused, Unusable
from legion_server.api.problems import answer_to, response_to
from legion_server.backend import LOOPBACK

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it, browsers would send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "X-Frame-Options": "DENY",
}
SAFE = ("GET", "HEAD", "OPTIONS")  # they change nothing
OWN_PAGES = "Open this server's own pages, and act there."


class WrongHost(Unusable):
    slug = "wrong-host"
    title = "The request is for another server"
    hint = "Use an address of this server, or tell it the name with LEGION_NAMES or --public-host."
    status = 421


class SecurityHeaders:
    """ASGI middleware: adds HEADERS to every answer that does not have them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sent if scope["type"] == "http" else send)


class Guard:
    """ASGI middleware: refuses requests for names that are not ours, and those that another site made a browser send.

    A page of another site may name this server by a name of its own, which resolves to our address (DNS rebinding):
    so names that we do not know are refused. Addresses cannot be pointed elsewhere, and pass.
    """

    def __init__(self, app: ASGIApp, names: Callable[[], Collection[str]]) -> None:
        """`names`: those that this server is called by; asked once."""
        self._app = app
        self._ask_names = names
        self._names: frozenset[str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._names is None:
            self._names = frozenset(name.lower().rstrip(".") for name in self._ask_names())
        error = refusal(HTTPConnection(scope), self._names)
        if error is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await answer_to(Request(scope), error)(scope, receive, send)
        else:
            await WebSocket(scope, receive, send).send_denial_response(response_to(error))


def refusal(request: HTTPConnection, names: Collection[str]) -> LegionError | None:
    """Why a request is refused, before anything looks at it; None: it is not."""
    host = request.headers.get("host", "")
    if not is_ours(host, names):
        return WrongHost(f"this server is not called {name_of(host) or 'nothing'}")
    if request.scope["type"] == "http" and request.scope["method"] in SAFE:
        return None
    # Programs send none of these headers. Browsers send the first one to https:// and localhost only.
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        return Refused("another site sent this request", hint=OWN_PAGES)
    if origin is not None and not _is_own_origin(origin, host, names):
        return Refused("a page of another site sent this request", hint=OWN_PAGES)
    return None


def is_ours(host: str, names: Collection[str]) -> bool:
    """Whether a Host header names this server: an address, or one of its names, with any port."""
    name = name_of(host)
    if name in names or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def name_of(host: str) -> str:
    """Of HOST, HOST:PORT or [ADDRESS]:PORT; empty for what is none of these."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_own_origin(origin: str, host: str, names: Collection[str]) -> bool:
    """A proxy in front may have changed Host: then the origin has one of our names, which it cannot have by chance."""
    scheme, _, place = origin.partition("://")
    if scheme not in ("http", "https"):
        return False  # "null", which sandboxed pages send
    return place.lower() == host.lower() or (name_of(place) in names and name_of(place) not in LOOPBACK)
