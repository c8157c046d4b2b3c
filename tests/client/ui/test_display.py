"""What a computer says that has no screen, or lacks a library that Qt needs for one: a sentence, not SIGABRT."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from legion_client.ui import display
from legion_client.ui.display import packages_of, platforms
from tests.client.machine.private_desktop import Screen

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="X11 and Wayland")

OF_A_DESKTOP = ("DISPLAY", "WAYLAND_DISPLAY", "XDG_SESSION_TYPE", "XAUTHORITY", "QT_QPA_PLATFORM")


def refused(home: Path, **variables: str) -> str:
    """What `legion-client` says before it ends with the code of a window that cannot be opened."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_DESKTOP}
    environment |= {"LEGION_HOME": str(home), **variables}
    command = [sys.executable, "-m", "legion_client"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 45, done.stderr
    *_, said, hint = done.stderr.splitlines()  # libxcb may have said something before
    assert said.startswith("legion-client: Qt cannot ")
    assert "legion-client --no-gui" in hint
    assert not home.exists()
    return done.stderr


@pytest.mark.parametrize(
    ("library", "package"),
    [("libxcb-cursor.so.0", "libxcb-cursor0"), ("libxcb-icccm.so.4", "libxcb-icccm4"), ("libEGL.so.1", "libegl1")],
)
def test_a_library_that_cannot_be_loaded_is_named_with_its_package(
    tmp_path: Path, screen: Screen, library: str, package: str
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / library).touch()
    said = refused(tmp_path / "home", LD_LIBRARY_PATH=str(broken), **screen.environment)
    assert library in said
    assert package in said


def test_without_a_display_the_variable_is_named(tmp_path: Path) -> None:
    assert "DISPLAY is not set" in refused(tmp_path / "home")


def test_a_display_where_nobody_answers_is_named(tmp_path: Path) -> None:
    # Displays have ports above 6000; no X server listens at the last.
    assert "DISPLAY is 'localhost:59535'" in refused(tmp_path / "home", DISPLAY="localhost:59535")


def test_a_screen_that_does_not_know_us_is_none(tmp_path: Path, screen: Screen) -> None:
    assert "nothing answers" in refused(tmp_path / "home", DISPLAY=f":{screen.number}", XAUTHORITY=os.devnull)


def test_a_plugin_that_is_not_there_is_named() -> None:
    assert "there is no libqxcb.so in /nowhere" in str(display.trouble_of("xcb", [Path("/nowhere")]))


@pytest.mark.parametrize(
    ("environment", "tried"),
    [
        ({}, ["xcb"]),
        ({"XDG_SESSION_TYPE": "x11", "DISPLAY": ":0"}, ["xcb"]),
        ({"XDG_SESSION_TYPE": "wayland"}, ["wayland", "xcb"]),
        ({"WAYLAND_DISPLAY": "wayland-0"}, ["wayland", "xcb"]),
        ({"QT_QPA_PLATFORM": "", "WAYLAND_DISPLAY": ""}, ["xcb"]),
        ({"QT_QPA_PLATFORM": "wayland;xcb:nograb", "DISPLAY": ":0"}, ["wayland", "xcb"]),
        ({"QT_QPA_PLATFORM": "offscreen", "WAYLAND_DISPLAY": "wayland-0"}, ["offscreen"]),
    ],
)
def test_plugins_are_those_that_qt_tries(environment: dict[str, str], tried: list[str]) -> None:
    assert platforms(environment) == tried


def test_all_missing_libraries_are_told_at_once() -> None:
    missing = {"libxcb-icccm.so.4", "libxcb-keysyms.so.1"}
    assert packages_of("xcb", lambda library: "gone" if library in missing else None) == [
        "libxcb-icccm4",
        "libxcb-keysyms1",
    ]
    assert packages_of("offscreen", lambda library: "gone") == []
