"""The whole program on a desktop whose tray comes late or never: real X server, real session bus, played tray."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PySide6.QtWidgets import QLabel, QSystemTrayIcon

from legion_client.ui.desktop import Desktop
from legion_client.ui.tray import PATIENT_LOOKS, TrayWatch
from tests.client.conftest import ending_well
from tests.client.machine.private_desktop import MessageBus, Screen
from tests.client.ui.conftest import Stage
from tests.client.ui.fake_tray import REGISTERED, fake_tray
from tests.client.ui.memory_desk import MemoryDesk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="trays of Linux desktops")


@contextmanager
def app(home: Path, bus: MessageBus, screen: Screen, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`legion-client` on that desktop."""
    environment = os.environ | screen.environment
    environment |= {"DBUS_SESSION_BUS_ADDRESS": bus.address, "QT_QPA_PLATFORM": "xcb", "LEGION_HOME": str(home)}
    with ending_well(environment, *arguments) as program:
        yield program
        while not (home / "control" / "address.json").exists():  # by then it heeds signals
            assert program.poll() is None


def remembered(home: Path, program: subprocess.Popen[str]) -> dict[str, object]:
    """What the window keeps, once it has been told that there is no tray."""
    file = home / "state" / "window.json"
    while True:
        assert program.poll() is None
        if file.exists() and (text := file.read_text()) and (kept := json.loads(text))["told_without_tray"]:
            assert isinstance(kept, dict)
            return kept


@pytest.mark.parametrize("arguments", [(), ("--background",)])
def test_the_icon_appears_with_a_tray_that_comes_late(
    tmp_path: Path,
    message_bus: MessageBus,
    screen: Screen,
    arguments: tuple[str, ...],
) -> None:
    with app(tmp_path / "home", message_bus, screen, *arguments) as program:
        remembered(tmp_path / "home", program)
        with fake_tray(message_bus.socket) as tray:
            while REGISTERED not in tray.asked:
                assert program.poll() is None


def test_a_tray_that_is_there_gets_the_icon_at_once(
    tmp_path: Path,
    message_bus: MessageBus,
    screen: Screen,
) -> None:
    with fake_tray(message_bus.socket) as tray, app(tmp_path / "home", message_bus, screen, "--background") as program:
        while REGISTERED not in tray.asked:
            assert program.poll() is None


def test_a_first_start_with_a_window_takes_links(tmp_path: Path, message_bus: MessageBus, screen: Screen) -> None:
    entry = tmp_path / "home.data" / "applications" / "legion-link.desktop"
    with fake_tray(message_bus.socket), app(tmp_path / "home", message_bus, screen) as program:
        while not (entry.exists() and entry.read_text()):
            assert program.poll() is None
    assert f"Exec={sys.executable} -m legion_client --link %u\n" in entry.read_text()


def test_that_there_is_no_tray_is_told_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QSystemTrayIcon, "isSystemTrayAvailable", staticmethod(lambda: False))

    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        for told in (True, False):
            watch = TrayWatch(desktop)
            watch.missing.connect(desktop._do_without_tray)
            for _ in range(PATIENT_LOOKS + 3):
                watch._look()
            assert desktop.window.isVisible()
            notes = [one for one in desktop.window.findChildren(QLabel) if "shows no tray" in one.text()]
            assert [one.isVisible() for one in notes] == [True]
            if told:
                assert desktop.memory.now.told_without_tray
                notes[0].setText("shows no tray, dismissed")
            else:
                assert notes[0].text() == "shows no tray, dismissed"

    stage.run(play)
