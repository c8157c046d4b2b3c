"""The log as people see it, while it is written, and as they may show it."""

import json
import platform
from pathlib import Path

import pytest
from identities import issue

from legion.ids import RunId
from legion_client.agent.enrolment import Enrolment
from legion_client.commands.logs import appended
from tests.client.commands.conftest import Client

LINES = (
    "10:00:00 INFO    legion_client.agent joined server=https://example.org:8000 home=/home/ada/legion\n"
    "10:00:01 WARNING legion_client.agent token=abcdef at 192.168.1.7:8000\n"
    "10:00:02 ERROR   legion_client.agent failed\nTraceback (most recent call last):\nValueError: x\n"
)


@pytest.fixture
def log(client: Client) -> Path:
    path = client.home / "logs" / "agent.log"
    path.parent.mkdir(parents=True)
    path.write_text(LINES)
    return path


def test_levels_and_counts(client: Client, log: Path) -> None:
    assert client.run("logs") == LINES
    assert client.run("logs", "--level", "error").startswith("10:00:02 ERROR")
    assert "ValueError: x" in client.run("logs", "--lines", "1")
    only = [json.loads(line) for line in client.run("logs", "--level", "warning", "--json").splitlines()]
    assert [line["level"] for line in only] == ["warning", "error"]
    (log.parent / "engine.log").write_text("10:00:00 INFO    legion.comm listening\n")
    assert client.run("logs", "--of", "engine").endswith("listening\n")


def test_what_is_shown_to_others_names_nobody(client: Client, log: Path, tmp_path: Path) -> None:
    [identity] = issue(tmp_path / "authority", 1)
    Enrolment("https://rig.local:1", RunId("run-x"), "bearer", identity, identity.worker_id).save(
        client.home / "identity"
    )
    names = ["rig.local", str(client.home), str(identity.worker_id)]
    names += [platform.node()] if len(platform.node()) > 2 else []  # too short to be told from other words
    with log.open("a") as file:
        file.write(f"10:00:03 INFO    x {' '.join(names)} legion://rig.local:1/?token=t&ca=c\n")
    told = client.run("logs", "--redact")
    secrets = [*names, "example.org", "/home/ada", "abcdef", "192.168.1.7", "token=t"]
    assert [secret for secret in secrets if secret in told] == []
    assert told.count("\n") == LINES.count("\n") + 1


def test_lines_are_followed_into_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent.log"
    path.write_text("before\n")
    contents = iter(["before\none\ntw", "before\none\ntwo\n", "before\none\ntwo\n", "new\n"])
    monkeypatch.setattr("legion_client.commands.logs.time.sleep", lambda _: path.write_text(next(contents)))
    told = appended(path)
    assert [next(told) for _ in range(3)] == ["one\n", "two\n", "new\n"]
