"""The event stream over a real WebSocket: a server that asks for time is not knocked at before."""

import asyncio
import http
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from legion.messages import Event
from legion_client.agent import events
from legion_client.agent.backoff import LONGEST_S, pauses


class Stream:
    """Refuses with these answers first, then takes connections: drops `drops` of them, and sends one event."""

    def __init__(self, refusals: list[tuple[http.HTTPStatus, str]], drops: int = 0) -> None:
        self.refusals = refusals
        self.drops = drops

    def refuse(self, _connection: ServerConnection, _request: Request) -> Response | None:
        if not self.refusals:
            return None
        status, asked = self.refusals.pop(0)
        headers = Headers({"Content-Length": "0"})
        if asked:
            headers["Retry-After"] = asked
        return Response(status, status.phrase, headers)

    async def tell(self, connection: ServerConnection) -> None:
        if self.drops:
            self.drops -= 1
            return
        await connection.send(Event(number=1, type="plan", at=0.0).model_dump_json())
        await connection.wait_closed()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        async with serve(self.tell, "127.0.0.1", 0, process_request=self.refuse) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def followed(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses until the first event."""
    slept: list[float] = []
    heard = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with stream.running() as url:
        with monkeypatch.context() as patch:
            patch.setattr(events, "pause", sleep)
            no_tls: ssl.SSLContext | None = None
            following = asyncio.create_task(events.follow(url, no_tls, "token", lambda _event: heard.set()))
            async with asyncio.timeout(30):
                await heard.wait()
            following.cancel()
            await asyncio.wait([following])
    return slept


async def test_a_server_that_asks_for_time_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [
        (http.HTTPStatus.SERVICE_UNAVAILABLE, "40"),
        (http.HTTPStatus.TOO_MANY_REQUESTS, "50"),
        (http.HTTPStatus.BAD_GATEWAY, ""),
    ]
    asked = await followed(Stream(refusals), monkeypatch)
    assert [40 <= asked[0] <= 40.5, 50 <= asked[1] <= 51, 0 <= asked[2] <= 2] == [True] * 3


async def test_one_that_drops_every_connection_is_asked_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "pauses", lambda: pauses(lambda: 1.0))
    found = await followed(Stream([], drops=8), monkeypatch)
    assert found == [0.5, 1, 2, 4, 8, LONGEST_S, LONGEST_S, LONGEST_S]


async def test_no_connection_outlives_one_who_is_cancelled_while_it_closes() -> None:
    """As when a program ends that was already about to leave, and the server answers nothing any more."""
    heard = asyncio.Event()

    async def deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await connection.send(Event(number=1, type="plan", at=0.0).model_dump_json())
        await connection.wait_closed()

    async with serve(deaf, "127.0.0.1", 0, close_timeout=0.1) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        before = connections_to(port)
        url = f"http://127.0.0.1:{port}"
        following = asyncio.create_task(events.follow(url, None, "token", lambda _event: heard.set()))
        await heard.wait()
        assert connections_to(port) == before + 1
        following.cancel()
        await asyncio.wait({following}, timeout=0.1)
        assert not following.done(), "it says goodbye, and waits for an answer"
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        await asyncio.sleep(0)  # a transport is closed in the loop's next turn
        assert connections_to(port) == before


def connections_to(port: int) -> int:
    """Ours, that are open from this end."""
    ours = psutil.Process().net_connections(kind="tcp")
    return sum(bool(found.raddr) and found.raddr.port == port for found in ours)
