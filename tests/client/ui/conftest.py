"""A stage for the desktop app: one loop for Qt and asyncio, an in-memory desk, and nothing of the user's own."""

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, QLocale
from PySide6.QtWidgets import QApplication

from legion_client.paths import Home
from legion_client.ui.app import application_of, attend
from legion_client.ui.conversation import Seat
from legion_client.ui.desktop import Desktop
from legion_client.ui.language import QtWords
from legion_client.ui.loop import Loop
from tests.client.ui.memory_desk import MemoryDesk, seat_of, with_history

if sys.platform == "linux":
    from tests.client.machine.linux_fixtures import message_bus, screen

    __all__ = ["message_bus", "screen"]
else:
    collect_ignore = ["test_late_tray.py"]

WITHIN_S = 5.0

Play = Callable[[Desktop, MemoryDesk], Awaitable[None]]


async def until(holds: Callable[[], object]) -> None:
    """Waits for a fact."""
    async with asyncio.timeout(WITHIN_S):
        while not holds():  # noqa: ASYNC110  what widgets show has no event
            await asyncio.sleep(0)


class Stage:
    """Runs a play with a desktop that follows a desk; the play ends the conversation by returning."""

    def __init__(self, application: QApplication, home: Home) -> None:
        self.application = application
        self.home = home

    def run(
        self,
        play: Play,
        desk: MemoryDesk | None = None,
        *,
        wizard_done: bool = True,
        attached: bool = False,
        seat: Seat | None = None,
    ) -> None:
        """`seat`: of another agent than the desk."""
        seen = desk or with_history(1_800_000_000.0)

        async def with_desk(desktop: Desktop) -> None:
            await play(desktop, seen)

        self.attend(seat or partial(seat_of, seen), with_desk, wizard_done=wizard_done, attached=attached)

    def attend(
        self,
        seat: Seat,
        play: Callable[[Desktop], Awaitable[None]],
        *,
        wizard_done: bool = True,
        attached: bool = False,
    ) -> None:
        """With the agent of this seat."""
        desktop = Desktop(self.application, self.home, QtWords(QLocale(QLocale.Language.English)), attached=attached)
        desktop.memory.keep(wizard_done=wizard_done)
        desktop.theme.choose("light")

        async def whole() -> None:
            talk = asyncio.create_task(attend(desktop, seat))
            try:
                await until(lambda: desktop.conversation.status is not None)
                await play(desktop)
            finally:
                desktop.leave()
                await talk

        try:
            with asyncio.Runner(loop_factory=lambda: Loop(self.application)) as runner:
                runner.run(whole())
        finally:
            desktop.end()
            self.application.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@pytest.fixture(autouse=True)
def _garbage_of_here_goes_here() -> Iterator[None]:
    """As in the app (`ui.garbage`); what is left of a test must not be taken away by another's thread later."""
    gc.disable()
    yield
    gc.collect()
    gc.freeze()  # what other tests have left is not looked through again and again
    gc.enable()


@pytest.fixture
def stage(qapp: QApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return Stage(application_of(), Home(tmp_path / "home"))
