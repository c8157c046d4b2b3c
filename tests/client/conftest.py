"""A real server process on loopback, that tests can kill and start again on the same port."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from legion.identity import Invite

SMALL = {"model": {"preset": "tiny"}, "batch": {"micro_batch_blocks": 1}, "cluster": {"policy": "one"}}


class RunningServer:
    """`legion-server serve` in a folder of its own, on a port the system chose."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._process: subprocess.Popen[str] | None = None
        self.host, self.port = "127.0.0.1", 0

    def start(self) -> None:
        """On the same port as before, if there was one. Returns once it listens."""
        arguments = ["serve", "--data-dir", str(self.data_dir), "--host", self.host, "--port", str(self.port)]
        with (self.data_dir.parent / f"{self.data_dir.name}.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "legion_server", *arguments, "--no-assembler"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        word, self.host, port = self._process.stdout.readline().split()
        assert word == "listening"
        self.port = int(port)

    def kill(self) -> None:
        """As kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """As the admin."""
        token = (self.data_dir / "admin-token").read_text().strip()
        with httpx.Client(base_url=f"http://{self.host}:{self.port}", timeout=60, trust_env=False) as http:
            response = http.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
        assert response.is_success, response.text
        return json.loads(response.content) if response.content else None

    def configure(self, **change: Any) -> None:
        self.call("PUT", "/training/config", change)

    def invite(self, uses: int = 1) -> Invite:
        return Invite.parse(self.call("POST", "/invites", {"uses": uses})["invite"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server with a small text to train on."""
    text = tmp_path / "text"
    text.mkdir()
    for number in range(8):
        (text / f"{number}.txt").write_text(f"{number} bottles of beer on the wall. " * 40)
    server = RunningServer(tmp_path / "server")
    try:
        server.start()
        server.configure(**SMALL | {"data": {"source": "text", "paths": [str(text)], "seq_len": 16}})
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def _running(data_dir: Path) -> Iterator[RunningServer]:
    server = RunningServer(data_dir)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def running_server() -> Callable[[Path], contextlib.AbstractContextManager[RunningServer]]:
    """A server in a folder of the caller's, for as long as the block runs."""
    return _running


@pytest.fixture(scope="module")
def shared_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, RunningServer]]:
    """Two servers with authorities of their own, for tests that only enrol."""
    servers = (
        RunningServer(tmp_path_factory.mktemp("one") / "server"),
        RunningServer(tmp_path_factory.mktemp("other") / "server"),
    )
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()


@contextlib.contextmanager
def ending_well(environment: Mapping[str, str], *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """`legion-client` for the time of the block; then it must end on SIGTERM, with 0 and without a traceback.

    What its window tells the desktop lies beside its home, not in that of whoever runs the tests."""
    folders = {f"XDG_{kind}_HOME": f"{environment['LEGION_HOME']}.{kind.lower()}" for kind in ("CONFIG", "DATA")}
    command = [sys.executable, "-m", "legion_client", *arguments]
    with subprocess.Popen(command, env={**environment, **folders}, stderr=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.send_signal(signal.SIGTERM)
            assert program.stderr is not None
            said = program.stderr.read()
            assert program.wait() == 0, said
            assert "Traceback" not in said
