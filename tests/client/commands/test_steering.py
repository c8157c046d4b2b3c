"""Commands that steer an agent, as processes, against one that runs in another process."""

import json
import subprocess
import sys
import time

import pytest

from legion_client.commands.durations import until
from tests.client.commands.conftest import Client


def test_an_agent_is_steered(client: Client) -> None:
    with client.agent() as agent:
        assert client.run("status").startswith("Waiting for a run\n")
        before = time.time()
        paused = client.json("pause", "--for", "15m")
        assert before + 900 <= paused["until"] <= time.time() + 900
        now = client.json("status")
        assert (now["face"], now["headline"]) == ("paused", f"Paused until {paused['until']:.0f}")
        assert client.run("resume") == "Resumed.\n"
        assert client.json("pause") == {"paused": True, "until": None}
        assert client.json("snooze", "tomorrow")["until"] == until("tomorrow", time.time())
        assert client.json("mode", "gpu", "never", "--for", "1h")["mode"] == "never"
        assert client.json("finish") == {"finishing": True}
        now = client.json("status")
        assert (now["finishing"], now["modes"]["gpu"]["mode"]) == (True, "never")
        told = client.run("status")
        assert "stops after this round" in told
        assert "gpu       never until " in told
        assert agent.poll() is None


def test_settings_go_through_the_agent(client: Client) -> None:
    with client.agent():
        assert client.json("settings", "set", "name=cellar", "disk.most_gb=9.5") == {
            "name": "cellar",
            "disk.most_gb": 9.5,
        }
        assert client.json("settings", "get", "name") == {"name": "name", "value": "cellar", "chosen": True}
        listed = client.json("settings", "list", "operator")
        assert listed["name"]["chosen"]
    assert not (client.home / "settings.toml").exists()  # the agent decides where they are kept


def test_settings_without_an_agent_are_those_of_the_file(client: Client) -> None:
    assert client.json("settings", "get", "idle.minutes") == {"name": "idle.minutes", "value": 3, "chosen": False}
    client.run("settings", "set", "idle.minutes=5", "programs.exclusive=blender, krita")
    assert client.json("settings", "get", "programs.exclusive")["value"] == ["blender", "krita"]
    assert "disk.most_percent" in client.run("settings", "set", "idle.minutes=7", "disk.most_percent=900", code=2)
    assert client.json("settings", "get", "idle.minutes")["value"] == 5  # all or none
    client.run("settings", "set", "idle.minutes=")
    assert not client.json("settings", "get", "idle.minutes")["chosen"]
    listed = client.run("settings", "list", "minutes")
    assert listed.startswith("  idle.minutes = 3\n")


def test_changes_are_followed_until_the_agent_ends(client: Client) -> None:
    with client.agent() as agent:
        following = client.start("status", "--follow", "--json")
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["status"]["headline"] == "Waiting for a run"
        client.run("pause")
        assert json.loads(following.stdout.readline())["status"]["headline"] == "Paused by you"
        agent.kill()
        assert json.loads(following.stdout.readline())["error"]["slug"] == "agent-not-running"
        assert following.wait() == 43
        following.stdout.close()


def test_a_second_start_goes_to_the_first(client: Client) -> None:
    invite = f"legion://127.0.0.1:1/?token=t&ca={'a' * 64}"
    with client.agent():
        assert "already" in client.run("--no-gui", code=44)
        client.run("--no-gui", "--join", "-", stdin=invite)
        assert client.json("status")["server"] == "127.0.0.1:1"
    with client.agent("window"):
        client.run()  # raises the window
        client.run("--join", "-", stdin=invite)
        assert client.json("status")["server"] is None  # the window asks first


def test_joining_and_leaving_through_the_agent(client: Client) -> None:
    invite = f"legion://127.0.0.1:1/?token=t&ca={'a' * 64}"
    with client.agent():
        joined = client.json("join", "-", stdin=invite)
        assert (joined["server"], joined["authority_sha256"]) == ("127.0.0.1:1", "a" * 64)
        assert client.json("status")["server"] == "127.0.0.1:1"
        assert client.run("leave") == "Left the server.\n"
        assert client.json("status")["server"] is None


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("legion-client set", ["setup", "settings"]),
        ("legion-client mode g", ["gpu"]),
        ("legion-client settings get power.p", ["power.pause_on_battery"]),
        ("legion-client settings set power.p", ["power.pause_on_battery="]),
        ("legion-client settings set modes.cpu=a", ["modes.cpu=auto", "modes.cpu=always"]),
        ("legion-client settings set idle.only=", ["idle.only=true", "idle.only=false"]),
    ],
)
def test_the_shell_completes(client: Client, typed: str, offered: list[str]) -> None:
    variables = {
        "_LEGION_CLIENT_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    program = "import sys; sys.argv[0] = 'legion-client'; from legion_client.cli import main; main()"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=client.environment | variables, check=False)
    assert done.stdout.split() == offered
