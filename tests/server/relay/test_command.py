"""The command lines of a relay and of its operator: what they need, said in a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from legion.errors import InviteInvalid, NotFound, ServerUnreachable, Unusable
from legion.identity import Invite
from legion.relaying import RelayLoad, RelayState
from legion_server.cli import app
from legion_server.relay.enrolment import Enrolment, enrol
from legion_server.relay_list import table
from tests.client.conftest import RunningServer


def run(*arguments: object) -> BaseException | None:
    return CliRunner().invoke(app, ["relay", *map(str, arguments)]).exception


def test_without_an_enrolment_it_asks_for_an_invite(tmp_path: Path) -> None:
    found = run("--data-dir", tmp_path)
    assert isinstance(found, Unusable)
    assert "invite --relay" in found.hint


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (None, Unusable),
        ("something", InviteInvalid),
        (f"legion://127.0.0.1:1/?token=x&ca={'0' * 64}", ServerUnreachable),
    ],
)
def test_an_invite_of_no_use(tmp_path: Path, text: str | None, kind: type[BaseException]) -> None:
    if text is not None:
        (tmp_path / "invite").write_text(text)
    assert isinstance(run("--data-dir", tmp_path / "relay", "--join", tmp_path / "invite"), kind)
    assert not (tmp_path / "relay").exists()


def enrolled(server: RunningServer, folder: Path, name: str) -> Enrolment:
    return enrol(folder, Invite.parse(server.call("POST", "/invites", {"relay": True})["invite"]), name)


def test_the_operator_lists_relays_and_removes_one(server: RunningServer, tmp_path: Path) -> None:
    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["relays", *arguments, "--data-dir", str(server.data_dir)])

    east, other = (enrolled(server, tmp_path / folder, "east") for folder in ("east", "other"))
    west = enrolled(server, tmp_path / "west", "west")
    assert all(relay.relay_id in invoke().output for relay in (east, other, west))
    shown = json.loads(invoke("--json").output)
    assert [relay["name"] for relay in shown] == ["east", "east", "west"]
    assert shown[0].keys() >= {"certificate_until", "last_seen", "load", "endpoint", "alive", "problem"}
    several = invoke("remove", "east").exception
    assert isinstance(several, Unusable)
    assert east.relay_id in str(several)
    assert other.relay_id in str(several)
    assert invoke("remove", "west").output == f"relay west ({west.relay_id}) is removed\n"
    assert isinstance(invoke("remove", "west").exception, NotFound)
    assert invoke("remove", east.relay_id).exit_code == 0
    assert [relay["relay_id"] for relay in json.loads(invoke("--json").output)] == [other.relay_id]


def state(**said: Any) -> RelayState:
    nothing = {"last_seen": None, "alive": False, "endpoint": None, "load": RelayLoad(), "problem": None}
    known = {"relay_id": "a" * 32, "name": "east", "enrolled_at": 1.0, "certificate_until": 1_800_000_000.0}
    return RelayState.model_validate(known | nothing | said)


@pytest.mark.parametrize(
    ("said", "cells"),
    [
        ({}, ["not heard", "", "", "", "15 Jan 2027", "not yet"]),
        (
            {"certificate_until": 0.0, "problem": "h port 1 does not answer"},
            ["h port 1 does not answer", "not known yet"],
        ),
        (
            {
                "alive": True,
                "endpoint": {"host": "h", "port": 8443},
                "load": {"workers": 3, "bytes_per_s": 2.5e6, "share": 0.02},
                "last_seen": 1_700_000_000.0,
            },
            ["alive", "h:8443", "3", "20.0 Mbit/s (2%)", "15 Jan 2027"],
        ),
    ],
)
def test_a_relay_in_a_line(said: dict[str, Any], cells: list[str]) -> None:
    row = [cell for column in table([state(**said)]).columns for cell in column.cells]
    assert [cell for cell in row if cell in cells] == cells
