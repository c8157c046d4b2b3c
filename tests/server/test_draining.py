"""A real server process is asked to stop, or to read its settings again."""

import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("LEGION_")} | {"OMP_NUM_THREADS": "1"}


class Running:
    def __init__(self, folder: Path, **environment: str) -> None:
        command = [sys.executable, "-m", "legion_server.cli", "serve", "--data-dir", str(folder)]
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | environment,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split()[2])
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False)

    def logged(self, word: str) -> str:
        """The next line of the log with this word in it."""
        assert self.process.stderr is not None
        return next(line for line in self.process.stderr if word in line)

    def certificate(self) -> str:
        """The fingerprint of the one that a new connection is shown."""
        pem = ssl.get_server_certificate(("127.0.0.1", self.port))
        return hashlib.sha256(pem.encode()).hexdigest()


def answers(server: Running) -> bool:
    try:
        return server.http.get("/health").is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def run(**environment: str) -> Running:
        started.append(Running(tmp_path / "s", **environment))
        return started[-1]

    yield run
    for server in started:
        server.http.close()
        server.process.kill()
        server.process.communicate()


def test_a_server_that_stops_is_not_ready_and_serves_on(serve: Callable[..., Running]) -> None:
    server = serve(LEGION_DRAIN_S="3")
    assert server.http.get("/health/ready").status_code == 204
    with connect(f"ws://127.0.0.1:{server.port}/ws/events", proxy=None) as stream:
        server.process.send_signal(signal.SIGTERM)
        while (ready := server.http.get("/health/ready")).status_code == 204:
            pass
        assert (ready.status_code, ready.json()["slug"]) == (503, "not-ready")
        assert ready.json()["detail"] == "the server is about to stop"
        assert (server.http.get("/health").status_code, server.http.get("/health/live").status_code) == (200, 204)
        with pytest.raises(ConnectionClosed) as closed:
            stream.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert server.process.wait(timeout=20) == 0


def test_a_request_under_way_ends_before_the_server_does(serve: Callable[..., Running]) -> None:
    server = serve()
    asked = b"PUT /training/config HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Length: 2\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(asked + b"{")
        assert answers(server)  # so the request before it has begun
        server.process.send_signal(signal.SIGTERM)
        while answers(server):
            pass
        connection.sendall(b"}")
        assert connection.makefile("rb").readline() == b"HTTP/1.1 401 Unauthorized\r\n"
    assert server.process.wait(timeout=20) == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_log_level_and_certificate_are_reloaded(serve: Callable[..., Running], tmp_path: Path) -> None:
    server = serve()
    before = server.certificate()
    assert server.certificate() == before
    (tmp_path / "s" / "log-level").write_text("debug\n")
    server.process.send_signal(signal.SIGHUP)
    assert "log_level=DEBUG" in server.logged("reloaded")
    assert server.certificate() != before
    # The log tells of callers that believe another authority on level debug alone.
    stranger = ssl.create_default_context()
    with socket.create_connection(("127.0.0.1", server.port)) as plain, pytest.raises(ssl.SSLError):
        stranger.wrap_socket(plain, server_hostname="127.0.0.1")
    assert "DEBUG" in server.logged("connection closed before a request")
    (tmp_path / "s" / "log-level").write_text("loud")
    server.process.send_signal(signal.SIGHUP)
    assert "Unknown level: 'LOUD'" in server.logged("not reloaded")
    (tmp_path / "s" / "log-level").unlink()
    server.process.send_signal(signal.SIGHUP)
    assert "log_level=INFO" in server.logged("reloaded")
    assert server.http.get("/health").status_code == 200
