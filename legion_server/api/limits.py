"""How much a request may send before it is refused; slices and blobs have their own, from plan and report."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from legion.errors import Unusable
from legion_server.api.problems import response_to

MOST_BYTES = 8 * 2**20  # a heartbeat with the shape of a large model has some 100 kB


class BodyTooLarge(Unusable):
    slug = "body-too-large"
    title = "The request's body is too large"
    status = 413


class BodyLimit:
    """ASGI middleware: answers 413 before, or ends the body when, it becomes too large."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "PUT" and _has_own_limit(scope["path"])):
            await self._app(scope, receive, send)
            return
        error = BodyTooLarge(f"a request may have {MOST_BYTES} bytes")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > MOST_BYTES:
            await response_to(error)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MOST_BYTES:
                raise error
            return message

        await self._app(scope, counted, send)


def _has_own_limit(path: str) -> bool:
    return "/slices/" in path or path.startswith("/blobs/")
