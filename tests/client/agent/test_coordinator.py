"""What the agent makes of a server in trouble: answers of a real HTTP server, and the calls that follow them."""

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from legion.errors import LegionError, NotFound, StorageFailed, Unavailable
from legion.ids import WorkerId
from legion.messages import HEARTBEAT_S, PROBE_BYTES
from legion_client.agent import backoff
from legion_client.agent.backoff import persistently
from legion_client.agent.coordinator import LIMITS, PIECE_BYTES, Coordinator, noise
from legion_server.api.problems import problem_of
from legion_server.transport import KEEP_ALIVE_S


class Troubled(ThreadingHTTPServer):
    """Answers with the errors in `ahead`, one a request, and then with 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.ahead: list[LegionError] = []


class Answering(BaseHTTPRequestHandler):
    server: Troubled

    def do_DELETE(self) -> None:
        if not self.server.ahead:
            self.send_response(204)
            self.end_headers()
            return
        error = self.server.ahead.pop(0)
        content = problem_of(error).model_dump_json().encode()
        self.send_response(error.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Not to standard error."""


@pytest.fixture
def troubled() -> Iterator[Troubled]:
    with Troubled() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def client_of(server: Troubled) -> Coordinator:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    return Coordinator(url, ssl.create_default_context(), WorkerId("a" * 32), "token")


@pytest.mark.parametrize("trouble", [StorageFailed("disk is full"), LegionError("that was not expected")])
async def test_the_servers_own_trouble_is_its_operators_and_passes(troubled: Troubled, trouble: LegionError) -> None:
    troubled.ahead = [trouble]
    async with client_of(troubled) as coordinator:
        with pytest.raises(Unavailable, match=f"the server cannot take DELETE .* just now: {trouble}") as caught:
            await coordinator.leave()
    assert type(caught.value) is Unavailable
    assert (caught.value.retryable, caught.value.exit_code) == (True, 40)
    assert "server's operator must act" in caught.value.hint


async def test_the_agent_tries_again_until_the_server_is_well(
    troubled: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.0)
    troubled.ahead = [StorageFailed("disk is full"), LegionError("that was not expected"), StorageFailed("again")]
    async with client_of(troubled) as coordinator:
        await persistently("goodbye", coordinator.leave)
    assert troubled.ahead == []


async def test_what_the_server_says_of_us_comes_out_as_it_is(troubled: Troubled) -> None:
    troubled.ahead = [NotFound("no worker is enrolled here")]
    async with client_of(troubled) as coordinator:
        with pytest.raises(NotFound, match="no worker is enrolled here"):
            await coordinator.leave()


def test_a_connection_lasts_from_one_heartbeat_to_the_next_and_ends_before_the_server_ends_it() -> None:
    assert LIMITS.keepalive_expiry is not None
    assert HEARTBEAT_S + 10 < LIMITS.keepalive_expiry < KEEP_ALIVE_S - 10


@pytest.mark.parametrize("size_bytes", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, PROBE_BYTES])
async def test_a_burst_is_never_held_as_a_whole(size_bytes: int) -> None:
    pieces = [piece async for piece in noise(size_bytes)]
    assert sum(map(len, pieces)) == size_bytes
    assert max(map(len, pieces), default=0) <= PIECE_BYTES
    assert len(set(pieces)) == len(pieces)
