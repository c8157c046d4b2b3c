"""Volunteers who are reached through relays only: real server, relays and clients, and a relay that dies."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from legion_client.agent.reach import load
from legion_client.paths import Home
from tests.e2e.running import Admin, Program, small_run

STEPS = 60


def relay(run: Callable[..., Program], admin: Admin, folder: Path, name: str) -> Program:
    """A relay that workers are sent to."""
    (folder / f"{name}.invite").write_text(admin.call("POST", "/invites", {"relay": True})["invite"])
    files = ("--data-dir", folder / name, "--join", folder / f"{name}.invite")
    started = run("legion_server", "relay", *files, "--name", name, "--host", "127.0.0.1", "--port", "0")
    started.until("^listening ")
    return started


@pytest.mark.timeout(300)
def test_a_run_whose_workers_are_behind_relays_survives_one_of_them(
    run: Callable[..., Program], tmp_path: Path
) -> None:
    _, admin = small_run(run, tmp_path, steps=STEPS, rounds={"steps": 4, "checkpoint_every": 30})
    relays = {name: relay(run, admin, tmp_path, name) for name in ("east", "west")}
    invite = admin.call("POST", "/invites", {"uses": 2})["invite"]
    homes = [Home(tmp_path / name) for name in ("attic", "cellar")]
    clients = []
    for home in homes:
        home.root.mkdir()
        home.settings.write_text('version = 1\n[network]\nrelay = "always"\n')
        clients.append(run("legion_client", "--no-gui", "--exit-when-done", "--join", invite, "--home", home.root))
    chosen = [client.until("relay found relay=(east|west)").group(1) for client in clients]
    clients[0].until("anchor round=2 ")
    relays[chosen[0]].destroy()
    clients[0].until(f"relay lost relay={chosen[0]}")
    other = clients[0].until("relay found relay=(east|west)").group(1)
    assert other != chosen[0]
    assert [client.ended() for client in clients] == [0, 0], clients[0].output + clients[1].output
    relays[other].terminate()
    assert relays[other].ended() == 0, relays[other].output
    assert "Traceback" not in relays[other].output
    metrics = admin.call("GET", "/metrics")
    assert (metrics["phase"], metrics["step"]) == ("complete", STEPS)
    assert metrics["rounds"]["counters"]["root_mismatches"] == 0
    for client, home in zip(clients, homes, strict=True):
        assert "Traceback" not in client.output
        found = load(home.reachability)
        assert found is not None
        assert found.endpoint is not None
        assert (found.how, found.endpoint.relayed) == ("relay", True)
        assert re.search("relay found", client.output)
