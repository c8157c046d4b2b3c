"""HTTPS whose sockets close with the requests that opened them."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpcore
import httpx

Trace = Callable[[str, dict[str, Any]], Awaitable[None]]


class TlsTransport(httpx.AsyncHTTPTransport):
    """A request that is cancelled in the middle of a TLS handshake leaves its socket open in httpcore 1.0.9.

    It closes the stream of a handshake that fails, and takes a cancelled one for none. The server would keep the other
    end until its own time is up.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "trace": _closing()}
        return await super().handle_async_request(request)


def _closing() -> Trace:
    opened: list[httpcore.AsyncNetworkStream] = []

    async def trace(event: str, told: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            opened.append(told["return_value"])
        elif event == "connection.start_tls.failed":
            await opened.pop().aclose()

    return trace
