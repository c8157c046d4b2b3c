"""HTTP over a line that counts and limits: whatever the agent asks of its server, and whatever comes back."""

from collections.abc import AsyncIterator

import httpx

from legion_client.agent.traffic import Direction, Traffic

UNHELD = "legion.unheld"  # extension of a request whose body is counted, and not held to the limit
SMALL_BYTES = 16_384  # so is one of this size: a heartbeat must not wait for what larger ones have used up


class MeteredTransport(httpx.AsyncBaseTransport):
    """Bytes of heads and bodies as HTTP has them: what TLS and TCP add, a few percent, is not counted."""

    def __init__(self, inner: httpx.AsyncBaseTransport, traffic: Traffic) -> None:
        self._inner = inner
        self._upload, self._download = traffic.upload, traffic.download

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._upload.valve.count(_head_bytes(request.url.raw_path, request.headers))
        held = UNHELD not in request.extensions
        request.stream = _Metered(_body(request.stream), self._upload, _size(request.headers), held=held)
        response = await self._inner.handle_async_request(request)
        self._download.valve.count(_head_bytes(b"", response.headers))
        response.stream = _Metered(_body(response.stream), self._download, _size(response.headers))
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Metered(httpx.AsyncByteStream):
    """A body. Of one that comes, the next bytes are not read before the last have passed: TCP holds the server back."""

    def __init__(
        self, body: httpx.AsyncByteStream, direction: Direction, size_bytes: int, *, held: bool = True
    ) -> None:
        self._held = held and not 0 < size_bytes <= SMALL_BYTES
        self._body = body
        self._direction = direction
        self._size_bytes = size_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        valve = self._direction.valve
        with self._direction.moving(self._size_bytes):
            async for chunk in self._body:
                if not self._held:
                    valve.count(len(chunk))
                    yield chunk
                    continue
                start = 0
                while piece := chunk[start : start + valve.piece_bytes(len(chunk))]:
                    start += len(piece)
                    await valve.through(len(piece))
                    yield piece

    async def aclose(self) -> None:
        await self._body.aclose()


def _body(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> httpx.AsyncByteStream:
    assert isinstance(stream, httpx.AsyncByteStream)  # what an AsyncClient sends and gets
    return stream


def _size(headers: httpx.Headers) -> int:
    """As announced; 0 where it is not."""
    text = headers.get("content-length", "")
    return int(text) if text.isdecimal() else 0


def _head_bytes(path: bytes, headers: httpx.Headers) -> int:
    """About: a line of its own, and four bytes beside each field."""
    return 16 + len(path) + sum(len(name) + len(value) + 4 for name, value in headers.raw)
