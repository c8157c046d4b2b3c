"""The server as a process: what it imports, how fast it starts, how it fails, dies and comes back."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from click.testing import Result
from typer.testing import CliRunner

from legion.errors import ConfigInvalid, NotFound, PortInUse, ServerUnreachable, StorageFailed, Unusable
from legion.keys import new_key, signing_request
from legion_server.auth.ca import open_authority
from legion_server.cli import app
from legion_server.transport import listen

START_S = 2.0
FORBIDDEN = ("torch", "grpc", "transformers", "datasets", "numpy")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("LEGION_")} | {"OMP_NUM_THREADS": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "legion_server.cli", *arguments]


class Running:
    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        assert process.stdout is not None
        self.line = process.stdout.readline()
        # Time of the CPU, not of the clock: what else the machine does is not the server's fault.
        spent = psutil.Process(process.pid).cpu_times()
        self.started_s = spent.user + spent.system
        self.port = int(self.line.split()[2]) if self.line else 0
        token = (folder / "admin-token").read_text()
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {token}"}, trust_env=False
        )

    def end(self, how: int) -> int:
        self.http.close()
        self.process.send_signal(how)
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> Running:
        arguments = ("serve", "--data-dir", str(tmp_path / "s"), "--host", "127.0.0.1", "--port", "0", *options)
        process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        started.append(process)
        return Running(process, tmp_path / "s")

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_starts_in_two_seconds_says_where_and_ends_on_request(run: Callable[..., Running], tmp_path: Path) -> None:
    server = run("--ready-file", str(tmp_path / "ready"))
    assert server.line == f"listening 127.0.0.1 {server.port}\n"
    assert server.started_s < START_S
    assert (tmp_path / "ready").read_text() == f"127.0.0.1 {server.port}\n"
    assert server.http.get("/health").json()["phase"] == "waiting"
    assert json.loads((tmp_path / "s" / "listening.json").read_text()) == {"host": "127.0.0.1", "port": server.port}
    assert server.end(signal.SIGTERM) == 0
    assert not (tmp_path / "s" / "listening.json").exists()


@pytest.mark.parametrize("waited_for", [False, True])
def test_people_are_told_how_workers_come_programs_are_not(
    run: Callable[..., Running], tmp_path: Path, waited_for: bool
) -> None:
    server = run(*(["--ready-file", str(tmp_path / "ready")] if waited_for else []))
    server.http.close()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.stdout is not None
    said = server.process.stdout.read()
    assert "status page" in said
    assert ("no workers yet: 'legion-server invite" in said) is not waited_for


@pytest.mark.parametrize("module", ["legion_server.serving", "legion_server.cli"])
def test_imports_no_machine_learning(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {FORBIDDEN!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert found.stdout == "[]\n"


def test_help_needs_no_server_parts() -> None:
    code = "import sys, legion_server.cli; print([m for m in ('fastapi', 'sqlalchemy', 'httpx') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert found.stdout == "[]\n"


def join(server: Running) -> tuple[dict[str, str], str, dict[str, Any]]:
    """Enrol a worker: its headers, where its heartbeats go, and one that says it is ready."""
    invite = server.http.post("/invites", json={}).json()["invite"]
    token = httpx.URL(invite).params["token"]
    hardware = {"os": "x", "cpu_count": 1, "memory_bytes": 2**30, "free_disk_bytes": 1, "legion_version": "0"}
    body = {"protocol": 1, "token": token, "csr_pem": signing_request(new_key()), "name": "pc", "hardware": hardware}
    worker = server.http.post("/workers", json=body).json()
    shape = {"units": [{"name": "u", "tensors": [{"name": "t", "shape": [5000]}]}]}
    beat = {"protocol": 1, "state": "ready", "endpoint": {"host": "127.0.0.1", "port": 9}, "shape": shape}
    mine = {"Authorization": f"Bearer {worker['token']}"}
    return mine, f"/workers/{worker['worker_id']}/heartbeat", beat


def test_a_killed_server_comes_back_with_everything(run: Callable[..., Running]) -> None:
    server = run()
    one = {"cluster": {"policy": "one"}}
    change = {"data": {"source": "distributed_dummy"}, "steps": 30, "start": {"workers": 1}} | one
    config = server.http.put("/training/config", json=change, timeout=60).json()
    mine, url, beat = join(server)
    assert server.http.post(url, json=beat, headers=mine).json()["phase"] == "training"
    record = dict.fromkeys(("loss", "grad_norm", "lr", "step_s", "compute_s", "waiting_s"), 1.0) | dict.fromkeys(
        ("step_tokens", "tokens", "micro_batches", "sent_bytes", "received_bytes", "peak_rss_bytes", "state_bytes"), 1
    )
    report = {"epoch": 1, "steps": [record | {"step": 1}]}
    assert server.http.post("/metrics", json=report, headers=mine).status_code == 204
    run_id, authority = server.http.get("/health").json()["run_id"], server.http.get("/ca.pem").text
    assert server.end(signal.SIGKILL) == -signal.SIGKILL

    server = run()
    health = server.http.get("/health").json()
    assert (health["run_id"], health["phase"]) == (run_id, "training")
    assert server.http.get("/ca.pem").text == authority
    assert server.http.get("/training/config").json() == config
    assert server.http.get("/training/plan").json()["epoch"] == 1
    assert server.http.get("/metrics").json()["step"] == 1
    going_on = beat | {"state": "training", "epoch": 1, "step": 2}
    assert server.http.post(url, json=going_on, headers=mine).json()["epoch"] == 1
    assert server.http.get("/data/manifest", headers=mine).status_code == 200
    assert server.end(signal.SIGKILL) == -signal.SIGKILL

    server = run("--resume")
    assert server.http.get("/health").json()["phase"] == "waiting"
    assert server.http.get("/metrics").json()["step"] == 0
    assert server.http.post(url, json=beat, headers=mine).json() | {"interval_s": 0} == {
        "run_id": server.http.get("/health").json()["run_id"],
        "phase": "training",
        "epoch": 2,
        "interval_s": 0,
        "certificate_renewal": False,
        "round": -1,
        "revision": 0,
        "gone": [],
        "regroup": False,
        "measure": [],
        "measure_server": True,
        "wanted": [],
        "found": [],
        "doubled": "",
    }
    assert server.end(signal.SIGINT) == 0


def fails(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, env=ENVIRONMENT | environment, timeout=30
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    taken = listen("127.0.0.1", 0)
    port = str(taken.getsockname()[1])
    code, said = fails("serve", "--data-dir", str(tmp_path), "--host", "127.0.0.1", "--port", port)
    taken.close()
    assert code == PortInUse.exit_code == 41
    assert said == f"legion-server: port {port} on 127.0.0.1 is in use. {PortInUse.hint}\n"


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_an_unusable_data_folder_is_one_sentence(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    code, said = fails("serve", "--data-dir", str(tmp_path / folder), "--port", "0")
    assert code == StorageFailed.exit_code == 42
    assert said.startswith(f"legion-server: the data folder {tmp_path / folder} cannot be used: ")
    assert said.count("\n") == 1


def test_a_read_only_data_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from legion_server.backend import make_data_dir

    def refused(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(StorageFailed, match="Read-only file system"):
        make_data_dir(tmp_path / "s")


def test_a_data_folder_has_one_server(run: Callable[..., Running], tmp_path: Path) -> None:
    run()
    code, said = fails("serve", "--data-dir", str(tmp_path / "s"), "--host", "127.0.0.1", "--port", "0")
    assert code == 42
    assert "in use by another server" in said


def test_a_damaged_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "legion.db").write_bytes(b"rubbish" * 1000)
    code, said = fails("serve", "--data-dir", str(tmp_path), "--host", "127.0.0.1", "--port", "0")
    assert code == 42
    assert "the database cannot be used: file is not a database" in said


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_a_server_killed_in_the_middle_of_a_round_goes_on(run: Callable[..., Running]) -> None:
    server = run()
    change = {"data": {"source": "distributed_dummy"}, "steps": 4, "start": {"workers": 2}}
    rounds = {"cluster": {"policy": "solo"}, "rounds": {"steps": 2}}
    assert server.http.put("/training/config", json=change | rounds, timeout=60).status_code == 200
    workers = [join(server) for _ in range(2)]
    for mine, url, beat in workers:
        assert server.http.post(url, json=beat, headers=mine).status_code == 200
    headers = {url.split("/")[2]: mine for mine, url, _ in workers}
    plan = server.http.get("/training/rounds/plan").json()

    def report(span: int, number: int = 0) -> int:
        blob = f"{span}".encode() * 9
        digest = hashlib.sha256(blob).hexdigest()
        body = {"round": number, "span": span, "term": 0, "digest": digest, "size_bytes": 9, "included": []}
        mine = headers[plan["spans"][span]["reducers"][0]]
        reply = server.http.post(f"/training/rounds/{number}/spans", json=body, headers=mine)
        if reply.status_code == 204:
            assert server.http.put(f"/blobs/{digest}", content=blob, headers=mine).status_code == 204
        return reply.status_code

    assert report(0) == 204
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    server = run()
    assert server.http.get("/training/rounds/plan").json() == plan
    assert report(0) == 204  # again, as its answer may have been lost
    assert report(1) == 204
    version = server.http.get("/training/global_version").json()
    assert (version["round"], version["anchor"]) == (1, 1)
    assert [record["round"] for record in server.http.get("/training/rounds").json()["records"]] == [0]
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    server = run()
    assert (report(1), report(0, 1), report(0, 2)) == (204, 204, 409)
    assert server.end(signal.SIGTERM) == 0


def test_commands_without_a_server_say_so(tmp_path: Path) -> None:
    failed = invoke("invite", "--data-dir", str(tmp_path)).exception
    assert isinstance(failed, ServerUnreachable)
    assert str(failed) == f"no server runs with the data folder {tmp_path}"
    # One that was killed left the note of where it listened.
    (tmp_path / "listening.json").write_text('{"host": "127.0.0.1", "port": 1}')
    (tmp_path / "admin-token").write_text("token")
    open_authority(tmp_path, 1_700_000_000.0)
    failed = invoke("invite", "--data-dir", str(tmp_path)).exception
    assert isinstance(failed, ServerUnreachable)
    assert "cannot be reached" in str(failed)


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGION_PORT", "many")
    failed = invoke("invite").exception
    assert isinstance(failed, Unusable)
    assert "LEGION_PORT" in str(failed)


def test_the_other_commands(run: Callable[..., Running], tmp_path: Path) -> None:
    run()
    here = ("--data-dir", str(tmp_path / "s"))
    assert invoke("invite", *here).output.startswith("legion://127.0.0.1:")
    assert invoke("config", "set", "data.source=distributed_dummy", "num_steps=40", *here).output == "changed\n"
    shown = json.loads(invoke("config", "show", *here).output)
    assert (shown["steps"], shown["data"]["source"]) == (40, "distributed_dummy")
    assert "worker" in invoke("workers", *here).output
    wrong = invoke("config", "set", "steps=0", *here).exception
    assert isinstance(wrong, ConfigInvalid)
    assert "allowed: >= 1" in str(wrong)
    assert isinstance(invoke("config", "set", "steps", *here).exception, Unusable)
    assert isinstance(invoke("revoke", "a" * 32, *here).exception, NotFound)


def test_the_database_is_in_wal_mode(run: Callable[..., Running], tmp_path: Path) -> None:
    run()
    connection = sqlite3.connect(tmp_path / "s" / "legion.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
