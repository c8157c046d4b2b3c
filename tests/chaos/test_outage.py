"""Two clusters train by rounds; the server is killed (-9), then one client too. All of it comes back and goes on."""

import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from legion_client.agent.unsent import Unsent
from tests.e2e.test_return import Admin, Program

STEPS = 800_000  # more than any machine makes: the test says when it is over
Run = Callable[..., Program]


@pytest.fixture
def run() -> Iterator[Run]:
    running: list[Program] = []

    def started(module: str, *arguments: str | Path) -> Program:
        running.append(Program(module, *arguments))
        return running[-1]

    yield started
    for program in reversed(running):
        program.destroy()


def free_port() -> int:
    """That the system chose, and that the server has twice."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


@pytest.mark.timeout(400)
def test_nothing_is_lost_when_the_server_and_a_client_are_killed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{n} bottles of beer on the wall. " for n in range(400)))
    data, port = tmp_path / "server", free_port()
    serve = ("legion_server", "serve", "--data-dir", data, "--host", "127.0.0.1", "--port", str(port))
    server = run(*serve)
    admin = Admin(server, data)
    admin.call(
        "PUT",
        "/training/config",
        {
            "steps": STEPS,
            "model": {"preset": "tiny"},
            "data": {"source": "text", "paths": [str(tmp_path / "text.txt")], "seq_len": 16},
            "batch": {"micro_batch_blocks": 1},
            "start": {"workers": 2},
            "cluster": {"policy": "solo"},
            "rounds": {"steps": 8, "checkpoint_every": 5},
            "evaluation": {"sample_tokens": 0},
        },
    )
    invite = admin.call("POST", "/invites", {"uses": 2})["invite"]
    homes = [tmp_path / name for name in ("attic", "cellar")]
    attic, cellar = (run("legion_client", "--no-gui", "--join", invite, "--home", home) for home in homes)
    for client in (attic, cellar):
        client.until("local state kept anchor=")
    server.destroy()
    for client in (attic, cellar):
        client.until("metrics failed, will be repeated")
    cellar.destroy()
    kept = [record for home in homes for path in (home / "state").glob("unsent-*") for record in Unsent(path).read()]
    assert kept, "what was done since waits on the disks"
    server = run(*serve)
    Admin(server, data)
    cellar = run("legion_client", "--no-gui", "--home", homes[1])
    cellar.until("local state taken up kept_at=")
    for client in (cellar, attic):
        client.until("local state kept anchor=")
    for client in (attic, cellar):
        client.terminate()
    assert [attic.ended(), cellar.ended()] == [0, 0], attic.output + cellar.output
    assert "records of an agent before wait" in cellar.output
    assert attic.output.count("phase=training") == 1, "it trained through all of it"
    assert admin.call("GET", "/metrics")["rounds"]["counters"]["root_mismatches"] == 0
    assert not [record for path in tmp_path.glob("*/state/unsent-*") for record in Unsent(path).read()]
    with closing(sqlite3.connect(data / "legion.db")) as database:
        stored = set(database.execute("SELECT step, epoch FROM step_records").fetchall())
    assert {(record.step, epoch) for epoch, record in kept if hasattr(record, "grad_norm")} <= stored
    for program in (attic, cellar):
        assert "Traceback" not in program.output
