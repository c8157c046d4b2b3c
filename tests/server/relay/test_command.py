"""The command line of a relay: what it needs, said in a sentence."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from legion.errors import InviteInvalid, ServerUnreachable, Unusable
from legion_server.cli import app


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
