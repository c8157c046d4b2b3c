"""Logs are read in both formats, and a copy for others holds nothing private."""

from pathlib import Path

import pytest

from legion_client.ui import report
from legion_client.ui.report import Line, bug_report, from_level, parse, redact, tail

PRIVATE = [
    "legion://training.example.org:8470/?token=abc&ca=" + "0f" * 32,
    "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.payload",
    'token="s3cret value"',
    "access_token: s3cret",
    "peer 192.168.1.17:50051 lost",
    "peer 2001:db8::8a2e:370:7334 lost",
    "peer fe80::1 lost",
    "https://training.example.org:8470/workers",
    "cannot read /home/margaret/.local/share/legion/identity/key.pem",
    r"cannot read C:\Users\Margaret\AppData\key.pem",
    "mail margaret@example.org",
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIG\n-----END PRIVATE KEY-----",
    "nonce " + "Zm9vYmFy" * 8,
    "hello from margaret on attic-pc",
]
MARKS = [
    "8470",
    "eyJ",
    "s3cret",
    "192.168",
    "2001",
    "fe80",
    "example.org",
    "margaret",
    "Margaret",
    "MC4C",
    "Zm9v",
    "attic",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_nothing_private_stays(text: str) -> None:
    told = redact(text, names=["margaret", "attic-pc"])
    assert [mark for mark in MARKS if mark in told] == []


@pytest.mark.parametrize(
    "text",
    [
        "contributed round=13 tokens=262144",
        "09:12:44 INFO legion_client.agent.rounds step=4120/12000 loss=3.271",
        "engine ended code=-9 after_s=1.5",
        "and/or 3/4 of it",
    ],
)
def test_what_helps_stays(text: str) -> None:
    assert redact(text, names=["", "pc"]) == text


def test_both_formats_and_tracebacks_are_read() -> None:
    text = (
        "orphan\n"
        "09:12:44 INFO    legion_client.agent joined round=13\n"
        "09:12:45 ERROR   legion_client.engine failed\nTraceback:\n  boom\n"
        '{"time": 0.0, "level": "warning", "name": "x", "event": "late", "exception": "Trace"}\n'
        '{"not": "ours"}\n'
    )
    first, second, third = parse(text)
    assert first == Line("09:12:44", "info", "legion_client.agent", "joined round=13")
    assert second.text == "failed\nTraceback:\n  boom"
    assert (third.level, third.text) == ("warning", 'late\nTrace\n{"not": "ours"}')
    assert from_level([first, second, third], "warning") == [second, third]


def test_the_tail_begins_with_a_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert tail(path) == ""
    path.write_text("first line\nsecond line\nthird\n")
    assert tail(path) == "first line\nsecond line\nthird\n"
    assert tail(path, 15) == "third\n"


def test_the_report_names_version_and_system() -> None:
    told = bug_report("0.1", "paused: by margaret", [Line("09:00:00", "info", "x", "y")], ["margaret"])
    assert told.splitlines()[0].startswith("Legion 0.1 on ")
    assert "paused: by <name>" in told
    assert "09:00:00 INFO    x y" in told


def test_levels_are_in_order() -> None:
    assert report.LEVELS == ("debug", "info", "warning", "error")
