"""Who opens legion:// links: asked of the desktop's own program, and of a played registry of Windows."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from legion.errors import StorageFailed, Unusable
from legion_client import links
from tests.client.commands.conftest import Client
from tests.client.played_registry import PlayedRegistry

INVITE = f"legion://127.0.0.1:1/?token=t&ca={'a' * 64}"
OTHER = "[Added Associations]\ntext/plain=edit.desktop;\n\n[Default Applications]\nx-scheme-handler/https=web.desktop\n"

linux = pytest.mark.skipif(sys.platform != "linux", reason="desktop entries")
with_gio = pytest.mark.skipif(shutil.which("gio") is None, reason="gio is not installed (Debian libglib2.0-bin)")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable, folder in (("HOME", "."), ("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    for variable in ("XDG_CONFIG_DIRS", "XDG_DATA_DIRS"):
        monkeypatch.setenv(variable, str(tmp_path / "system"))
    monkeypatch.setenv("XDG_CURRENT_DESKTOP", "Plain:GNOME")
    return tmp_path


def default_of(place: Path) -> str:
    """As the desktop sees it."""
    done = subprocess.run(
        ["gio", "mime", "x-scheme-handler/legion"], capture_output=True, text=True, check=True, env=os.environ
    )
    return done.stdout.splitlines()[0]


@linux
def test_a_list_that_is_a_link_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of those who keep their settings elsewhere; it has other programs' choices too."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    kept, wishes = tmp_path / "kept.list", tmp_path / "config" / "mimeapps.list"
    kept.write_text("[Default Applications]\ntext/plain=editor.desktop\n")
    wishes.parent.mkdir()
    wishes.symlink_to(kept)
    links.switch(True)
    assert wishes.is_symlink()
    assert "text/plain=editor.desktop" in kept.read_text()
    assert "legion-link.desktop" in kept.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


@linux
@with_gio
def test_links_come_to_legion_and_go_again(place: Path) -> None:
    assert not links.is_on()
    links.switch(True, takes_over=False)
    assert links.is_on()
    assert default_of(place).endswith(links.XDG_FILE)
    links.switch(False)
    assert not links.is_on()
    assert default_of(place).startswith("No default applications")
    links.switch(False)
    assert not (place / "data" / "applications" / links.XDG_FILE).exists()


@linux
@with_gio
def test_a_link_that_is_clicked_reaches_the_instance_that_runs(place: Path) -> None:
    links.switch(True, takes_over=False)
    client = Client(place / "home")
    with client.agent("window"):
        subprocess.run(["gio", "open", INVITE], check=True, env=client.environment)
        # It returns once the program is started; what that does is seen where it rings.
        while client.json("status")["headline"] != f"Shown: {INVITE}":
            pass


@linux
@pytest.mark.parametrize(
    "file", ["config/mimeapps.list", "config/gnome-mimeapps.list", "system/applications/mimeapps.list"]
)
def test_another_programs_links_are_taken_only_when_asked_for(place: Path, file: str) -> None:
    (place / file).parent.mkdir(parents=True)
    theirs = OTHER + "x-scheme-handler/legion = theirs.desktop;\n"
    (place / file).write_text(theirs)
    links.switch(True, takes_over=False)
    assert not links.is_on()
    assert (place / file).read_text() == theirs
    assert (place / "data" / "applications" / links.XDG_FILE).exists()  # in the desktop's list of what could open it


@linux
def test_all_else_in_the_list_stays(place: Path) -> None:
    wishes = place / "config" / "mimeapps.list"
    wishes.parent.mkdir()
    wishes.write_text(OTHER)
    links.switch(True, takes_over=False)
    assert links.is_on()
    assert f"x-scheme-handler/legion={links.XDG_FILE}\n" in wishes.read_text()
    links.switch(False)
    assert wishes.read_text() == OTHER
    wishes.write_text(OTHER + "x-scheme-handler/legion=theirs.desktop\n")
    links.switch(True)
    assert links.is_on()
    assert "theirs" not in wishes.read_text()


@linux
def test_where_nothing_can_be_written_that_is_said(place: Path) -> None:
    (place / "data").write_text("a file")
    with pytest.raises(StorageFailed, match=r"legion://"):
        links.switch(True)
    assert not links.is_on()


def test_windows_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = PlayedRegistry()
    monkeypatch.setitem(sys.modules, "winreg", registry)
    monkeypatch.setattr(sys, "platform", "win32")
    assert not links.is_on()
    links.switch(False)
    links.switch(True, takes_over=False, started=(r"C:\Program Files\Legion\legion.exe",))
    assert links.is_on()
    key = r"Software\Classes\legion"
    assert registry.keys[key] == {"": "URL:Legion", "URL Protocol": ""}
    assert registry.keys[rf"{key}\shell\open\command"] == {"": r'"C:\Program Files\Legion\legion.exe" "--link" "%1"'}
    links.switch(True, takes_over=False, started=("other.exe",))
    assert "other" not in json.dumps(registry.keys)
    links.switch(False)
    assert not links.is_on()
    assert not any(name.startswith(key) for name in registry.keys)


def test_a_mac_bundle_says_it_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not links.is_known(sys.platform)
    with pytest.raises(Unusable, match="darwin"):
        links.switch(True)
