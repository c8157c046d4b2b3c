"""Starting at login, on Linux: the entry, its quoting, and the switches of others."""

import plistlib
import sys
from pathlib import Path

import pytest

from legion.errors import StorageFailed
from legion_client import autostart

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at XDG's folder")


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "autostart" / "legion.desktop"


def test_on_and_off_again(entry: Path) -> None:
    assert not autostart.is_on()
    autostart.switch(True)
    assert autostart.is_on()
    assert f"Exec={sys.executable} -m legion_client --background\n" in entry.read_text()
    autostart.switch(True)
    autostart.switch(False)
    assert not autostart.is_on()
    autostart.switch(False)
    assert not entry.exists()


@pytest.mark.parametrize("line", ["Hidden=true", "X-GNOME-Autostart-enabled=false", "Hidden = true"])
def test_the_desktop_may_have_switched_it_off(entry: Path, line: str) -> None:
    autostart.switch(True)
    entry.write_text(entry.read_text() + line + "\n")
    assert not autostart.is_on()


def test_arguments_are_quoted_as_the_specification_wants() -> None:
    text = autostart.xdg_entry(["/opt/my apps/legion", "50%", 'a"b', "$HOME", "plain"])
    assert 'Exec="/opt/my apps/legion" 50%% "a\\\\"b" "\\\\$HOME" plain\n' in text


def test_a_folder_that_cannot_be_written_is_told(entry: Path) -> None:
    entry.parent.write_text("a file")
    with pytest.raises(StorageFailed, match="starting at login"):
        autostart.switch(True)
    assert not autostart.is_on()


def test_the_launch_agent_starts_once_at_login() -> None:
    told = plistlib.loads(autostart.agent_entry(["/Applications/Legion.app/legion", "--background"]))
    assert told["ProgramArguments"] == ["/Applications/Legion.app/legion", "--background"]
    assert told["RunAtLoad"] is True
    assert "KeepAlive" not in told
