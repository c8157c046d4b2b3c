"""A cluster whose members are reached through a relay that dies: they meet again at another, and nothing is lost."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from legion.comm.patience import MOVING_S
from legion_client.agent.reach import load
from legion_client.paths import Home
from tests.e2e.running import Admin, Program, small_run
from tests.e2e.test_relay import relay

STEPS, BEFORE = 60, 12  # of the run; when the relay dies
CLUSTERS = {"in rounds": {"policy": "fixed", "size": 2}, "one cluster": {"policy": "one"}}


def reached(admin: Admin, step: int) -> None:
    while admin.call("GET", "/metrics")["step"] < step:
        pass


def volunteers(run: Callable[..., Program], admin: Admin, folder: Path) -> tuple[list[Home], list[Program]]:
    """Two, who are reached through relays only."""
    invite = admin.call("POST", "/invites", {"uses": 2})["invite"]
    homes, clients = [Home(folder / name) for name in ("attic", "cellar")], []
    for home in homes:
        home.root.mkdir()
        home.settings.write_text('version = 1\n[network]\nrelay = "always"\n')
        clients.append(run("legion_client", "--no-gui", "--exit-when-done", "--join", invite, "--home", home.root))
    return homes, clients


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_goes_on_when_its_relay_dies(run: Callable[..., Program], tmp_path: Path, cluster: str) -> None:
    config = {"rounds": {"steps": 4, "checkpoint_every": 30}, "cluster": CLUSTERS[cluster]}
    _, admin = small_run(run, tmp_path, steps=STEPS, **config)
    east = relay(run, admin, tmp_path, "east")
    homes, clients = volunteers(run, admin, tmp_path)
    for client in clients:
        client.until("relay found relay=east")
    west = relay(run, admin, tmp_path, "west")
    reached(admin, BEFORE)
    east.destroy()  # kill -9
    for client in clients:
        client.until("relay found relay=west")
    assert [client.ended() for client in clients] == [0, 0], clients[0].output + clients[1].output
    west.terminate()
    assert west.ended() == 0, west.output
    metrics = admin.call("GET", "/metrics")
    assert (metrics["phase"], metrics["step"]) == ("complete", STEPS)
    for client, home in zip(clients, homes, strict=True):
        found = load(home.reachability)
        assert found is not None
        assert (found.how, found.relay) == ("relay", "west")
        assert "Traceback" not in client.output
        [missed_s] = re.findall("peer reached again .*after_s=([0-9.]+)", home.engine_log.read_text())
        assert float(missed_s) < MOVING_S
        assert "plan broken" not in client.output  # nobody was taken for lost
    if metrics["rounds"] is not None:
        counters = metrics["rounds"]["counters"]
        assert {counters[c] for c in ("clusters_lost", "clusters_regrouped", "members_lost", "root_mismatches")} == {0}
