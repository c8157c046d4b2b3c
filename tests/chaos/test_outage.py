"""Two clusters train by rounds; the server is killed (-9), then one client too. All of it comes back and goes on."""

import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from legion_client.agent.unsent import Unsent
from tests.e2e.running import Admin, Program, small_run

STEPS = 800_000  # more than any machine makes: the test says when it is over
Run = Callable[..., Program]


def free_port() -> int:
    """That the system chose, and that the server has twice."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


@pytest.mark.timeout(400)
def test_nothing_is_lost_when_the_server_and_a_client_are_killed(run: Run, tmp_path: Path) -> None:
    port, rounds = free_port(), {"steps": 8, "checkpoint_every": 5}
    no_samples = {"sample_tokens": 0}
    server, admin = small_run(run, tmp_path, steps=STEPS, rounds=rounds, port=port, evaluation=no_samples)
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
    data = tmp_path / "server"
    server = run("legion_server", "serve", "--data-dir", data, "--host", "127.0.0.1", "--port", str(port))
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
