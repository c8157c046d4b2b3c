"""What must not pass silently: files, folders, servers and versions that are not as they should be, with real programs.

Each situation is one line of the table in docs/client.md.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from legion_client.agent.enrolment import Enrolment
from tests.client.commands.conftest import Client
from tests.client.conftest import RunningServer, ending_well

WITHIN_S = 60.0
READ_ONLY = Path("/proc/legion")  # of the system, so that root cannot write there either


@contextmanager
def desktop(client: Client) -> Iterator[subprocess.Popen[str]]:
    """The app with its window, on a screen that nobody sees."""
    environment = client.environment | {"QT_QPA_PLATFORM": "offscreen", "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
    with ending_well(environment) as app:
        yield app


def status(client: Client) -> Any:
    """Of an agent that has decided something."""
    command = [sys.executable, "-m", "legion_client", "status", "--json"]
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        done = subprocess.run(command, env=client.environment, capture_output=True, text=True, check=False)
        if done.returncode == 0 and (told := json.loads(done.stdout))["reasons"]:
            return told
    raise AssertionError(f"no agent has reasons: {done.stdout}{done.stderr}")


def doctor(client: Client) -> str:
    command = [sys.executable, "-m", "legion_client", "doctor", "--json"]
    return subprocess.run(command, env=client.environment, capture_output=True, text=True, check=False).stdout


def as_a_folder(file: Path) -> None:
    file.mkdir()


UNUSABLE = {
    "future": (lambda file: file.write_text("version = 99\n"), "was written by a newer Legion", "Update Legion"),
    "folder": (as_a_folder, "settings.toml cannot be read: Is a directory", "move it away"),
    "no text": (lambda file: file.write_bytes(b"\xff\xfe\x00"), "it is not text in UTF-8", "move it away"),
    "no TOML": (lambda file: file.write_text("idle = \n"), "is not TOML", "move it away"),
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_a_settings_file_that_nobody_can_read(client: Client, how: str) -> None:
    spoil, says, advice = UNUSABLE[how]
    client.home.mkdir()
    file = client.home / "settings.toml"
    spoil(file)
    before = None if file.is_dir() else file.read_bytes()
    for arguments in (("--no-gui",), ("settings", "set", "idle.minutes=5")):
        told = client.run(*arguments, code=2)
        assert says in told
        assert advice in told
    assert (None if file.is_dir() else file.read_bytes()) == before


def test_the_window_opens_with_settings_that_nobody_can_read_and_nothing_is_computed(client: Client) -> None:
    client.home.mkdir()
    (client.home / "settings.toml").write_text("version = 99\n")
    with desktop(client):
        told = status(client)
        assert told["face"] == "warning"
        assert told["reasons"][0]["slug"] == "settings-unusable"
        assert "was written by a newer Legion" in told["headline"]
    assert (client.home / "settings.toml").read_text() == "version = 99\n"


@pytest.mark.parametrize(
    ("text", "says"), [("", "is empty: the defaults hold"), ("[idle]\nminutes = 0\n", "idle.minutes: Input should be")]
)
def test_the_window_tells_of_settings_whose_defaults_hold(client: Client, text: str, says: str) -> None:
    client.home.mkdir()
    (client.home / "settings.toml").write_text(text)
    with desktop(client):
        reasons = {why["slug"]: why["sentence"] for why in status(client)["reasons"]}
        assert says in reasons["settings-mistake"]


def test_an_empty_settings_file_is_told_of_and_the_defaults_hold(client: Client) -> None:
    client.home.mkdir()
    (client.home / "settings.toml").write_text("")
    assert "is empty: the defaults hold" in client.run("--no-gui", code=2)  # which ends because nothing was joined
    assert client.run("settings", "get", "idle.minutes").strip() == "3"


def test_a_pause_holds_though_the_settings_are_read_only(client: Client) -> None:
    client.home.mkdir()
    file = client.home / "settings.toml"
    file.write_text("[idle]\nminutes = 5\n")
    file.chmod(0o444)
    with desktop(client):
        status(client)
        assert "is read-only" in client.run("settings", "set", "idle.minutes=9", code=42)
        client.run("pause")
        assert status(client)["reasons"][0]["slug"] == "paused"
        client.run("resume")
        assert "paused" not in [why["slug"] for why in status(client)["reasons"]]
    happenings = (client.home / "activity" / "happenings.jsonl").read_text()
    assert "holds until Legion ends and no longer" in happenings
    assert file.read_text() == "[idle]\nminutes = 5\n"


@pytest.fixture(params=["file", "system"])
def no_home(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    """A home that cannot be: below a file, or where only the system writes."""
    if request.param == "file":
        (tmp_path / "file").write_text("")
        return Client(tmp_path / "file" / "legion")
    if not READ_ONLY.parent.is_mount():
        pytest.skip("there is no such place here")
    return Client(READ_ONLY)


def test_no_writable_home(no_home: Client) -> None:
    for arguments in (("--no-gui",), ("settings", "set", "idle.minutes=5")):
        told = no_home.run(*arguments, code=42)
        assert str(no_home.home) in told
        assert "choose another folder with --home" in told
    checks = {check["name"]: check for check in json.loads(doctor(no_home))["checks"]}
    assert checks["home"]["state"] == "problem"
    assert str(no_home.home) in checks["home"]["found"]


OTHER_VERSION = "import legion.messages as m; m.PROTOCOL = 99; from legion_client.cli import main; main()"


def test_a_server_of_another_version(client: Client, server: RunningServer) -> None:
    command = [sys.executable, "-c", OTHER_VERSION, "join", "-"]
    done = subprocess.run(
        command, input=str(server.invite()), env=client.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 11
    assert done.stderr.startswith("legion-client: the client speaks protocol 99, this server 1\n")
    assert "Install the same Legion version on both sides" in done.stderr
    assert not (client.home / "identity" / "enrolment.json").exists()
    client.run("join", "-", stdin=str(server.invite()))
    command = [sys.executable, "-c", OTHER_VERSION, "--no-gui"]
    done = subprocess.run(command, env=client.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (11, False)
    assert "protocol 99, this server 1" in done.stderr


def test_a_server_that_is_another_one_and_one_that_revoked_us(client: Client, server: RunningServer) -> None:
    client.run("join", "-", stdin=str(server.invite()))
    known = Enrolment.load(client.home / "identity")
    assert known is not None
    server.call("DELETE", f"/workers/{known.worker_id}")
    assert "removed by the operator" in client.run("--no-gui", code=10)
    other = RunningServer(server.data_dir.with_name("other"))
    server.kill()
    other.port = server.port
    try:
        other.start()
        told = client.run("--no-gui", code=10)
        assert "does not prove to be the server that this computer joined" in told
        assert "Do not go on: somebody may be between you and the server" in told
    finally:
        other.kill()


def test_the_systems_folders_are_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folders = dict.fromkeys(("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"), "file")
    environment = {key: value for key, value in os.environ.items() if key != "LEGION_HOME"}
    environment |= {key: str(tmp_path / value) for key, value in folders.items()}
    command = [sys.executable, "-m", "legion_client", "--no-gui"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 42
    assert f"{tmp_path / 'file' / 'legion'} cannot be written: Not a directory" in done.stderr
    assert "Traceback" not in done.stderr
