"""The window's own state: damaged or unwritable files cost nothing but the memory."""

from pathlib import Path

import pytest

from legion_client.ui.memory import Memory, Remembered


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "state" / "window.json"
    Memory(path).keep(theme="dark", width=900)
    assert Memory(path).now == Remembered(theme="dark", width=900)


@pytest.mark.parametrize("text", ["", "{", '{"theme": "pink"}', "[]"])
def test_a_damaged_file_means_the_defaults(tmp_path: Path, text: str) -> None:
    path = tmp_path / "window.json"
    path.write_text(text)
    assert Memory(path).now == Remembered()


def test_a_newer_version_may_know_more(tmp_path: Path) -> None:
    path = tmp_path / "window.json"
    path.write_text('{"theme": "dark", "hologram": true}')
    assert Memory(path).now.theme == "dark"


def test_a_folder_that_cannot_be_made_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    memory = Memory(tmp_path / "state" / "window.json")
    memory.keep(width=5)
    assert memory.now.width == 5
    assert (tmp_path / "state").read_text() == "a file"
