"""All that agent and engine send and receive: shared by the two, counted once, held to the limits over real HTTP."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paced import FakeTime

from legion.ids import WorkerId
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.metered import SMALL_BYTES
from legion_client.agent.traffic import BULK_BYTES, Traffic, shares
from legion_client.engine.protocol import Moved, Rates
from legion_client.machine.volume import MonthlyVolume

SIZE = 700_003
RATE = 100_000


@given(st.integers(1, 10**9), st.booleans(), st.booleans(), st.integers(0, 10**9))
def test_both_together_take_no_more_than_the_limit(limit: int, engine: bool, bulk: bool, moved: int) -> None:
    agents, engines = shares(limit, engine=engine, bulk=bulk, engine_moved_bytes=moved)
    assert agents is not None
    assert agents > 0
    assert (engines is None) is not engine
    assert agents + (engines or 0) == pytest.approx(limit)


def test_without_a_limit_there_is_nothing_to_share() -> None:
    assert shares(None, engine=True, bulk=True) == (None, None)


async def test_an_engine_hears_of_its_share_when_it_changes() -> None:
    traffic, heard = Traffic(), list[Rates]()
    traffic.on_rates = heard.append
    traffic.limit(1600, None)
    assert heard == []
    traffic.moved(Moved(sent_bytes=1600, received_bytes=0))
    assert heard == []
    assert (traffic.rates.upload_bytes_per_s, traffic.rates.download_bytes_per_s) == (None, None)
    traffic.with_engine(True)
    with traffic.upload.moving(BULK_BYTES - 1), traffic.download.moving(BULK_BYTES):
        assert traffic.rates.upload_bytes_per_s == 1500
    with traffic.upload.moving(BULK_BYTES), traffic.upload.moving(BULK_BYTES):
        traffic.moved(Moved(sent_bytes=25, received_bytes=0))
        traffic.moved(Moved(sent_bytes=0, received_bytes=0))
    traffic.limit(None, None)
    assert [rates.upload_bytes_per_s for rates in heard] == [1500, 100, 800, 100, 1500, None]


def test_what_both_moved_enters_the_month_and_the_graph_once(tmp_path: Path) -> None:
    volume = MonthlyVolume(tmp_path / "traffic.json")
    traffic = Traffic(volume)
    traffic.moved(Moved(sent_bytes=5, received_bytes=7))
    traffic.line.upload.count(11)
    traffic.line.download.count(13)
    assert traffic.since_last() == (16, 20)
    assert traffic.since_last() == (0, 0)
    assert volume.read() == 36
    volume.save()
    again = Traffic(MonthlyVolume(tmp_path / "traffic.json"))
    again.moved(Moved(sent_bytes=1, received_bytes=0))
    assert MonthlyVolume(tmp_path / "traffic.json").read() == 36


class Files(BaseHTTPRequestHandler):
    """Serves bytes, takes bytes."""

    def do_GET(self) -> None:
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206)
        self.send_header("Content-Length", str(SIZE - start))
        self.end_headers()
        self.wfile.write(bytes(SIZE - start))

    def do_PUT(self) -> None:
        taken = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204 if taken == SIZE else 400)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not to standard error."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


async def test_downloads_and_uploads_keep_to_the_limit(url: str, tmp_path: Path) -> None:
    traffic, time = Traffic(), FakeTime()
    down = traffic.download.valve = traffic.line.download = time.valve()
    up = traffic.upload.valve = traffic.line.upload = time.valve()
    traffic.limit(RATE, RATE)
    update = tmp_path / "update"
    await asyncio.to_thread(update.write_bytes, bytes(SIZE))
    async with Coordinator(url, ssl.create_default_context(), WorkerId("a" * 32), "token", traffic) as server:
        received = 0
        async for chunk in server.download("/blobs/x")(3):
            received += len(chunk)
        assert received == SIZE - 3
        assert time.now() >= (SIZE - 3) / RATE - 1
        await server.upload_update("5" * 64, SIZE, update)
    for valve in (down, up):
        assert SIZE - 3 <= valve.passed_bytes <= SIZE + 2000, "the body, and a few headers"
        time.assert_kept(valve, RATE, largest=RATE // 4 + 2000)
    assert time.now() >= 2 * SIZE / RATE - 2
    assert traffic.since_last() == (up.passed_bytes, down.passed_bytes)


async def test_a_heartbeat_does_not_wait_for_what_larger_ones_have_used_up(url: str) -> None:
    traffic, time = Traffic(), FakeTime()
    down = traffic.download.valve = traffic.line.download = time.valve()
    traffic.limit(RATE, RATE)
    down.count(60 * RATE)
    async with Coordinator(url, ssl.create_default_context(), WorkerId("a" * 32), "token", traffic) as server:
        for size, waited_s in ((SMALL_BYTES, 0), (SMALL_BYTES + 1, 50)):
            assert sum([len(chunk) async for chunk in server.download("/blobs/x")(SIZE - size)]) == size
            assert time.now() >= waited_s
            assert waited_s or time.now() == 0
    assert down.passed_bytes >= 60 * RATE + 2 * SMALL_BYTES, "both are counted"
