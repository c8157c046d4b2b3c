"""Joining, leaving, setting up and the doctor, against a real server."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from legion.identity import KEY_FILE
from legion_client.agent.enrolment import Enrolment
from tests.client.commands.conftest import Client
from tests.client.conftest import RunningServer


def test_joined_and_left_without_an_agent(client: Client, server: RunningServer) -> None:
    invite = str(server.invite(2))
    joined = client.json("join", "-", stdin=invite)
    known = Enrolment.load(client.home / "identity")
    assert known is not None
    assert joined["worker_id"] == known.worker_id
    assert joined["server"] == f"127.0.0.1:{server.port}"
    assert client.run("leave") == f"Left https://127.0.0.1:{server.port}.\n"
    assert Enrolment.load(client.home / "identity") is None
    assert client.json("join", "-", stdin=invite)["worker_id"] == known.worker_id  # the key stayed
    server.kill()
    assert client.json("leave")["left"]  # also when the server is away
    assert (client.home / "identity" / KEY_FILE).exists()


def test_setting_up_in_one_line(client: Client, server: RunningServer) -> None:
    arguments = ("setup", "--yes", "--preset", "light", "--nickname", "ada", "--team", "attic", "--join", "-")
    told = client.json(*arguments, stdin=str(server.invite()))
    assert (told["preset"], told["server"]) == ("light", f"127.0.0.1:{server.port}")
    assert "Fans stay rather quiet" in told["means"]
    assert client.json("settings", "get", "account.nickname")["value"] == "ada"
    assert client.json("settings", "get", "idle.only")["value"] is True
    assert Enrolment.load(client.home / "identity") is not None


def test_the_doctor_finds_what_is_wrong(client: Client, server: RunningServer) -> None:
    assert "joined no server" in states(client, 3)["identity"]["found"]
    client.run("join", "-", stdin=str(server.invite()))
    well = states(client, 0)
    known = Enrolment.load(client.home / "identity")
    assert known is not None
    authority = server.invite().authority_sha256
    assert authority in well["server"]["found"]
    others = {"agent", "graphics", "port mapping", *(name for name in well if name.startswith("card "))}
    assert {name: check["state"] for name, check in well.items() if name not in others} == dict.fromkeys(
        ("home", "settings", "identity", "server", "clock", "disk", "port", "reachability", "engine", "processor"), "ok"
    )
    assert "reach this computer directly, at 127.0.0.1:" in well["reachability"]["found"]
    server.call("DELETE", f"/workers/{known.worker_id}")
    (client.home / "settings.toml").write_text("disk.least_free_gb = 900000\ncolour = 'red'\n")
    ill = states(client, 3)
    assert "removed by the operator" in ill["server"]["found"]
    assert "colour" in ill["settings"]["found"]
    assert ill["disk"]["state"] == "problem"
    assert all(check["advice"] for check in ill.values() if check["state"] == "problem")
    server.kill()
    assert "cannot be reached" in states(client, 3)["server"]["found"]


def states(client: Client, code: int) -> dict[str, dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "-m", "legion_client", "doctor", "--json"],
        capture_output=True,
        text=True,
        env=client.environment,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["healthy"] == (code == 0)
    return {check["name"]: check for check in told["checks"]}


def test_another_servers_certificate_is_no_answer(
    client: Client, shared_servers: tuple[RunningServer, RunningServer]
) -> None:
    one, other = shared_servers
    client.run("join", "-", stdin=str(one.invite()))
    file = client.home / "identity" / "enrolment.json"
    file.write_text(file.read_text().replace(str(one.port), str(other.port)))
    server = states(client, 3)["server"]
    assert "does not prove to be the server" in server["found"]
    assert one.invite().authority_sha256 in server["found"]


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="signals of Unix")
def test_a_service_tells_its_status_and_leaves_when_told(client: Client, server: RunningServer, tmp_path: Path) -> None:
    client.run("join", "-", stdin=str(server.invite()))
    command = [sys.executable, "-m", "legion_client", "--no-gui"]
    outlet = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    outlet.bind(str(tmp_path / "notify"))
    environment = client.environment | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"}
    with outlet, subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        for line in service.stderr:
            if "phase=ready" in line:
                break
        assert client.json("status")["server"] == f"127.0.0.1:{server.port}"
        client.run("pause", "--for", "1h")
        assert client.json("status")["face"] == "paused"
        assert "already runs" in client.run("--no-gui", code=44)
        service.send_signal(signal.SIGTERM)
        service.stderr.read()
        assert service.wait() == 0
        outlet.setblocking(False)
        heard = list(received(outlet))
        assert (heard[0], heard[-1]) == ("READY=1\nSTATUS=Starting", "STOPPING=1\nSTATUS=Ending")
        assert "WATCHDOG=1" in heard
        assert any(line.startswith("STATUS=Paused") for line in heard)
    assert "phase=ready" in client.run("logs")


def received(outlet: socket.socket) -> Iterator[str]:
    """What waits there."""
    while True:
        try:
            yield outlet.recv(65536).decode()
        except BlockingIOError:
            return
