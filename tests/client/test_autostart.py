"""Starting at login: the entry, its quoting, and the switches of others; Windows' registry is played."""

import plistlib
import sys
from pathlib import Path

import pytest

from legion.errors import StorageFailed
from legion_client import autostart
from tests.client.played_registry import PlayedRegistry

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


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedRegistry:
    registry = PlayedRegistry()
    monkeypatch.setitem(sys.modules, "winreg", registry)
    monkeypatch.setattr(sys, "platform", "win32")
    return registry


def test_windows_run_key(played: PlayedRegistry) -> None:
    assert not autostart.is_on()
    autostart.switch(False)  # a Windows on which nothing ever wanted to start has no such key
    autostart.switch(True, [r"C:\Program Files\Legion\legion.exe", "--background"])
    assert autostart.is_on()
    assert played.keys[autostart.RUN_KEY] == {"Legion": r'"C:\Program Files\Legion\legion.exe" "--background"'}
    autostart.switch(False)
    assert not autostart.is_on()
    assert played.keys[autostart.RUN_KEY] == {}


def test_windows_own_switch_counts_and_is_put_back(played: PlayedRegistry) -> None:
    autostart.switch(True)
    approved = {"Legion": b"\x03" + bytes(11), "Other": b"\x02" + bytes(11)}
    played.keys[autostart.APPROVED_KEY] = approved
    assert not autostart.is_on()
    autostart.switch(True)
    assert autostart.is_on()
    assert set(approved) == {"Other"}
    approved["Legion"] = b"\x02" + bytes(11)
    assert autostart.is_on()
