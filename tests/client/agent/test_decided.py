"""What the volunteer decided, in a file that is edited, broken, or cannot be written."""

import os
from pathlib import Path

import pytest

from legion_client.agent.decided import Decided
from legion_client.settings import VERSION


@pytest.mark.parametrize("text", ["this is no TOML", f"version = {VERSION + 1}\n", None])
def test_what_is_done_by_hand_holds_where_the_file_does_not_take_it(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "settings.toml"
    decided = Decided(path)
    if text is None:
        path.mkdir()
    else:
        path.write_text(text)
    assert decided.steer({"modes.paused": True}) is not None
    assert decided.file.settings.modes.paused
    assert decided.steer({"modes.paused": None}) is not None
    assert not decided.file.settings.modes.paused
    assert path.is_dir() if text is None else path.read_text() == text


def test_what_could_not_be_written_is_written_with_the_next_change(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    decided = Decided(path)
    path.write_text("no TOML")
    decided.steer({"modes.paused": True})
    path.write_text("")
    assert decided.steer({"modes.paused": True}) is None
    assert Decided(path).file.settings.modes.paused


def test_an_edit_is_heeded_once_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "settings.toml"
    decided = Decided(path)
    assert not decided.heed_edits()
    path.write_text("[idle]\nminutes = 7\n")
    caplog.set_level("INFO")
    assert decided.heed_edits()
    assert decided.file.settings.idle.minutes == 7
    assert "setting idle.minutes: 3 -> 7 minutes" in caplog.text
    assert not decided.heed_edits()
    swapped = tmp_path / "swapped"
    swapped.write_text("[idle]\nminutes = 8\n")  # as long and, for a coarse clock, as old
    found = path.stat()
    os.utime(swapped, ns=(found.st_atime_ns, found.st_mtime_ns))
    swapped.replace(path)
    assert decided.heed_edits()
    assert decided.file.settings.idle.minutes == 8
    path.unlink()
    assert decided.heed_edits()
    assert decided.file.settings.idle.minutes == 3
