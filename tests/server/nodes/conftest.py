"""Several `legion-server serve` as real processes over one PostgreSQL and one data folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from legion.identity import client_context
from legion.keys import new_key, signing_request

POSTGRES = os.environ.get("LEGION_TEST_POSTGRES_URL")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("LEGION_")} | {"OMP_NUM_THREADS": "1"}
PATIENCE_S = 30.0


@pytest.fixture
def database_url() -> str:
    """An empty schema of the test's own."""
    if POSTGRES is None:
        pytest.skip("LEGION_TEST_POSTGRES_URL is not set")
    schema = f"test_nodes_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    engine = sa.create_engine(POSTGRES)
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    engine.dispose()
    own = sa.make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}"})
    return own.render_as_string(hide_password=False)


class Node:
    """A server process, and its admin's client."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening"), line
        self.port = int(line.split()[2])
        self.context = client_context((folder / "ca.pem").read_bytes())
        self.http = httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            verify=self.context,
            headers={"Authorization": f"Bearer {(folder / 'admin-token').read_text()}"},
            trust_env=False,
            timeout=30,
        )

    def end(self, which: int = signal.SIGTERM) -> int:
        self.http.close()
        self.process.send_signal(which)
        self.process.communicate(timeout=30)
        return self.process.returncode


Start = Callable[..., Node]


@pytest.fixture
def start(tmp_path: Path, database_url: str) -> Iterator[Start]:
    started: list[Node] = []
    processes: list[subprocess.Popen[str]] = []

    def start(*options: str, **environment: str) -> Node:
        folder = tmp_path / "s"
        command = [sys.executable, "-m", "legion_server.cli", "serve", "--data-dir", str(folder)]
        with (tmp_path / f"log-{len(processes)}").open("w") as log:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", "0", "--no-assembler", *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=ENVIRONMENT | {"LEGION_DATABASE_URL": database_url} | environment,
            )
        processes.append(process)
        node = Node(process, folder)
        started.append(node)
        return node

    yield start
    for node in started:
        node.http.close()
    for process in processes:
        if process.returncode is None:
            process.kill()
            process.communicate()


def eventually(holds: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """What `holds` returns once it is true. A server that does not lead yet answers 503, or not at all."""
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        try:
            if found := holds():
                return found
        except httpx.TransportError:
            pass
    raise AssertionError("it did not come to be")


class Worker:
    """An enrolled one, whose heartbeats may go to any server."""

    def __init__(self, node: Node) -> None:
        invite = node.http.post("/invites", json={}).json()["invite"]
        hardware = {"os": "x", "cpu_count": 1, "memory_bytes": 2**30, "free_disk_bytes": 1, "legion_version": "0"}
        body = {"protocol": 1, "token": httpx.URL(invite).params["token"], "csr_pem": signing_request(new_key())}
        reply = node.http.post("/workers", json=body | {"name": "pc", "hardware": hardware})
        assert reply.status_code == 201, reply.text
        self.worker_id: str = reply.json()["worker_id"]
        self.headers = {"Authorization": f"Bearer {reply.json()['token']}"}

    def beat(self, node: Node, state: str = "joining", **headers: str) -> httpx.Response:
        body: dict[str, Any] = {"protocol": 1, "state": state}
        if state == "ready":
            shape = {"units": [{"name": "u", "tensors": [{"name": "t", "shape": [5000]}]}]}
            body |= {"endpoint": {"host": "0.0.0.0", "port": 9}, "shape": shape}
        return node.http.post(f"/workers/{self.worker_id}/heartbeat", json=body, headers=self.headers | headers)
