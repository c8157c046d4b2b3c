"""The operator's hand on a run, with a real server and real clients: paused in mid-round, resumed, stopped."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.running import Admin, Program, small_run

Run = Callable[..., Program]
ENDLESS = 800_000  # steps; more than any machine makes


def two_clients(run: Run, admin: Admin, folder: Path, *options: str) -> list[Program]:
    invite = admin.call("POST", "/invites", {"uses": 2})["invite"]
    homes = [folder / name for name in ("attic", "cellar")]
    return [run("legion_client", "--no-gui", *options, "--join", invite, "--home", home) for home in homes]


@pytest.mark.timeout(300)
def test_a_run_that_is_paused_in_mid_round_goes_on_where_it_was(run: Run, tmp_path: Path) -> None:
    _, admin = small_run(run, tmp_path, steps=80, rounds={"steps": 8, "checkpoint_every": 5})
    clients = two_clients(run, admin, tmp_path, "--exit-when-done")
    for client in clients:
        client.until("anchor round=3 ")
    assert admin.call("POST", "/runs/pause")["phase"] == "paused"
    for client in clients:
        client.until("phase=holding")
    assert admin.call("GET", "/health")["phase"] == "paused"
    assert admin.call("POST", "/runs/pause")["phase"] == "paused"
    assert admin.call("POST", "/runs/resume")["phase"] == "training"
    assert [client.ended() for client in clients] == [0, 0], clients[0].output + clients[1].output
    metrics = admin.call("GET", "/metrics")
    assert (metrics["phase"], metrics["step"], metrics["rounds"]["committed"]) == ("complete", 80, 10)
    counters = metrics["rounds"]["counters"]
    assert (counters["clusters_lost"], counters["root_mismatches"], counters["undelivered"]) == (0, 0, 0)
    for client in clients:
        assert "phase=training before=holding" in client.output
        assert client.output.count("phase=preparing") == 1, "its engine has lived through the pause"
        assert "Traceback" not in client.output


@pytest.mark.timeout(300)
def test_a_run_that_is_stopped_ends_its_clients_and_keeps_its_checkpoint(run: Run, tmp_path: Path) -> None:
    server, admin = small_run(run, tmp_path, steps=ENDLESS, rounds={"steps": 8, "checkpoint_every": 2})
    clients = two_clients(run, admin, tmp_path, "--exit-when-done")
    server.until("checkpoint assembled step=")
    assert admin.call("POST", "/runs/stop")["phase"] == "stopped"
    assert [client.ended() for client in clients] == [0, 0], clients[0].output + clients[1].output
    assert any(checkpoint["assembled"] for checkpoint in admin.call("GET", "/checkpoints"))
    for client in clients:
        assert "Traceback" not in client.output
