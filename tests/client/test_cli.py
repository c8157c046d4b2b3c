"""The command line: one sentence and the documented exit code for everything that goes wrong, never a traceback."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from legion.errors import InviteInvalid, Unusable, every_error
from legion.identity import Invite
from legion_client.cli import app, main
from legion_client.commands.doctor import PROBLEM
from legion_client.commands.joining import read_invite
from legion_client.paths import Home
from legion_client.settings import Settings, load, override

INVITE = Invite("127.0.0.1", 1, "token", "a" * 64)


def client(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "legion_client", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "says"),
    [
        (("--no-gui", "--join", "-"), "", 10, "legion://HOST:PORT"),
        (("--no-gui", "--join", "-"), "legion://host:1/?token=t&ca=abc", 10, "'ca' is not a SHA-256"),
        (("--no-gui", "--join", "no-such-file"), "", 2, "no-such-file"),
        (("--no-gui", "--name", ""), "", 2, "name"),
        (("--no-gui", "--port", "70000"), "", 2, "listen_port"),
        (("--no-gui", "--link", str(INVITE)), "", 2, "asked about in the window"),
        (("--nonsense",), "", 2, "No such option"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, arguments: tuple[str, ...], stdin: str, code: int, says: str
) -> None:
    done = client(*arguments, stdin=stdin, LEGION_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


def every_command(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    parts = getattr(command, "commands", {})
    for part, below in parts.items():
        yield from every_command(below, f"{name} {part}")
    if not parts:
        yield name, command


def test_every_command_knows_json() -> None:
    found = dict(every_command(get_command(app), "legion-client"))
    assert {"legion-client status", "legion-client settings set", "legion-client generate"} <= found.keys()
    assert [name for name, command in found.items() if not any("--json" in one.opts for one in command.params)] == []


def test_a_computer_that_has_joined_nothing(tmp_path: Path) -> None:
    done = client("--no-gui", LEGION_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "has not joined a server yet" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "says"),
    [
        (("status",), "", 43, "no agent runs"),
        (("pause",), "", 43, "no agent runs"),
        (("pause", "--for", "soon"), "", 2, "'soon' is not a time"),
        (("snooze", "0m"), "", 2, "'0m' is not a time"),
        (("resume",), "", 43, "no agent runs"),
        (("finish",), "", 43, "no agent runs"),
        (("mode", "gpu", "never"), "", 43, "no agent runs"),
        (("mode", "gpu", "sometimes"), "", 2, "'sometimes'"),
        (("join", str(INVITE)), "", 10, "must not stand on a command line"),
        ((str(INVITE),), "", 10, "must not stand on a command line"),
        (("join", "-"), str(INVITE), 40, "cannot be reached"),
        (("leave",), "", 2, "has joined no server"),
        (("logs",), "", 2, "there is no log"),
        (("setup",), "", 2, "nobody can answer questions"),
        (("setup", "--yes", "--join", "-", "--preset", "light"), "nonsense", 10, "an invite looks like"),
        (("settings", "get", "colour"), "", 2, "no setting colour"),
        (("settings", "set", "colour=red"), "", 2, "no setting colour"),
        (("settings", "set", "disk.most_gb"), "", 2, "is no change"),
        (("settings", "set", "idle.minutes=0"), "", 2, "idle.minutes"),
        (("identity", "export", "file"), "", 2, "has no identity yet"),
        (("identity", "import", "no-such-file", "--passphrase-stdin"), "", 2, "no-such-file cannot be read"),
    ],
)
def test_a_command_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    stdin: str,
    code: int,
    says: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["legion-client", *arguments])
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    monkeypatch.setenv("LEGION_HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr()
    assert (end.value.code, told.out) == (code, "")
    assert says in told.err
    assert not (tmp_path / "home").exists()


def test_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    done = client("--no-gui", "--join", "-", stdin=str(INVITE), LEGION_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (40, "")
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_for_programs(tmp_path: Path) -> None:
    done = client("status", "--json", LEGION_HOME=str(tmp_path / "home"))
    error = json.loads(done.stdout)["error"]
    assert (error["slug"], error["exit_code"], done.returncode) == ("agent-not-running", 43, 43)
    assert error["message"] in done.stderr


def test_the_doctors_exit_code_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    assert f"| `{PROBLEM}` | `legion-client doctor` found a problem |" in page
    assert PROBLEM not in {error.exit_code for error in every_error()}


def test_what_the_agent_and_quick_commands_do_without() -> None:
    """Nothing of the client but the engine and `generate` may load torch or grpc, not even by accident; an agent that
    has joined does without what makes keys; and `status` answers at once, so it does without whatever speaks to a
    server or reads a disk."""
    agent = (
        "import sys, pkgutil, importlib, legion_client.agent as agent, legion_client.cli\n"
        "import legion_client.commands.headless, legion_client.commands.desktop\n"
        "for module in pkgutil.iter_modules(agent.__path__):\n"
        "    if module.name != 'enrolling':\n"
        "        importlib.import_module('legion_client.agent.' + module.name)\n"
        "large = {'torch', 'grpc', 'transformers', 'datasets', 'PySide6', 'numpy', 'cryptography', 'rich'}\n"
        "print(sorted(large & set(sys.modules)))\n"
    )
    quick = (
        "import sys, legion_client.cli, legion_client.control.client\n"
        "slow = {'torch', 'grpc', 'httpx', 'cryptography', 'psutil', 'numpy', 'websockets', 'PySide6', 'tomlkit'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    for code in (agent, quick):
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_invite_from_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "invite").write_text(f"  {INVITE}\n")
    assert read_invite(str(tmp_path / "invite")) == INVITE
    with pytest.raises(InviteInvalid, match="must not stand on a command line"):
        read_invite(str(INVITE))
    assert caplog.text == ""
    assert read_invite(str(INVITE), on_command_line=True) == INVITE
    assert "must not stand on a command line" in caplog.text
    assert INVITE.token not in caplog.text
    (tmp_path / "picture").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Unusable, match="picture"):
        read_invite(str(tmp_path / "picture"))
    with pytest.raises(InviteInvalid):
        read_invite("legion:nonsense", on_command_line=True)


def test_home_is_chosen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGION_HOME", str(tmp_path / "variable"))
    assert Home.find().root == tmp_path / "variable"
    assert Home.find(tmp_path / "option").root == tmp_path / "option"
    monkeypatch.delenv("LEGION_HOME")
    assert Home.find().root.name == "legion"


def test_settings_from_file_and_command_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    assert load(file).listen_port == 0
    file.write_text('name = "attic"\nlisten_port = 5000\n')
    assert load(file) == Settings(name="attic", listen_port=5000)
    assert override(load(file), name=None, listen_port=6000) == Settings(name="attic", listen_port=6000)


@pytest.mark.parametrize(
    ("text", "says"), [("name = ", "not TOML"), ("colour = 'red'", "colour"), ("listen_port = -1", "listen_port")]
)
def test_a_settings_file_with_a_mistake(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(Unusable, match=says):
        load(tmp_path / "settings.toml")
