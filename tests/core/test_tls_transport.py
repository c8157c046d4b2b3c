"""What a cancelled request leaves behind, at a server that takes connections and never shakes hands."""

import asyncio

import httpx
import pytest

from legion.tls_transport import TlsTransport

PATIENCE_S = 10.0


class Silent:
    """It tells when somebody has begun a handshake, and when the connection is closed."""

    def __init__(self) -> None:
        self.greeted, self.closed = asyncio.Event(), asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        self.greeted.set()
        while await reader.read(1024):
            pass
        self.closed.set()
        writer.close()


async def asked(silent: Silent, **options: float) -> "asyncio.Task[httpx.Response]":
    async with asyncio.timeout(PATIENCE_S):
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with server, httpx.AsyncClient(transport=TlsTransport(), **options) as http:  # type: ignore[arg-type]  # floats are timeouts
            port = server.sockets[0].getsockname()[1]
            request = asyncio.create_task(http.get(f"https://127.0.0.1:{port}/"))
            await silent.greeted.wait()
            if not options:
                request.cancel()
            await asyncio.wait([request])
            await silent.closed.wait()
    return request


async def test_a_request_cancelled_in_the_handshake_closes_its_socket() -> None:
    assert (await asked(Silent())).cancelled()


async def test_a_handshake_that_takes_too_long_closes_its_socket() -> None:
    with pytest.raises(httpx.ConnectTimeout):
        (await asked(Silent(), timeout=0.2)).result()
