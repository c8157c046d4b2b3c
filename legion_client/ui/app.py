"""`legion-client` with a face: one asyncio loop that is Qt's too, the tray at once, the agent behind it."""

import asyncio
import contextlib
import logging
import sys
import time

import qasync
from PySide6.QtWidgets import QApplication, QSystemTrayIcon

from legion.errors import LegionError
from legion_client.paths import Home
from legion_client.ui import model
from legion_client.ui.actions import Actions
from legion_client.ui.conversation import Conversation, Seat
from legion_client.ui.icons import program_icon
from legion_client.ui.language import QtWords
from legion_client.ui.memory import Memory
from legion_client.ui.model import View
from legion_client.ui.theme import Theme
from legion_client.ui.tools import Tools
from legion_client.ui.tray import Tray
from legion_client.ui.window import Window
from legion_client.ui.words import Words

logger = logging.getLogger(__name__)


class Desktop:
    """Tray and window of one conversation. Lives as long as the application."""

    def __init__(self, application: QApplication, home: Home, words: Words) -> None:
        self.application = application
        self.words = words
        self.memory = Memory(home.root / "state" / "window.json")
        self.conversation = Conversation()
        self.theme = Theme(application, self.memory.now.theme)
        self.actions = Actions(self.conversation, words, self.theme, application)
        self.tools = Tools(self.actions, self.conversation, words, self.theme, self.memory, home)
        self.tray = Tray(self.actions, self.theme, application)
        self._window: Window | None = None
        self.view: View = model.starting(words)
        self.leaving = asyncio.Event()
        self.conversation.status_changed.connect(lambda status: self.show(model.view_of(words, status, time.time())))
        self.conversation.lost.connect(lambda error: self.show(model.lost(words, sentence_of(error))))
        self.actions.opened.connect(lambda _: self.raise_window())
        self.actions.quitting.connect(self.leaving.set)
        self.show(self.view)

    @property
    def window(self) -> Window:
        """Made when it is first wanted: a start at login needs none."""
        if self._window is None:
            self._window = Window(self.tools)
            self._window.show_view(self.view)
        return self._window

    def show(self, view: View) -> None:
        self.view = view
        self.actions.show_view(view)
        self.tray.show_view(view)
        if self._window is not None:
            self._window.show_view(view)

    def raise_window(self) -> None:
        self.window.show()
        self.window.raise_()
        self.window.activateWindow()


def sentence_of(error: LegionError) -> str:
    return f"{error} {error.hint}".strip()


def run(home: Home, seat: Seat, *, background: bool = False) -> int:
    """Until the volunteer quits. `seat` gives the agent, after the tray is seen; `background`: without the window."""
    application = application_of()
    desktop = Desktop(application, home, QtWords())
    desktop.tray.show()
    if not background or not QSystemTrayIcon.isSystemTrayAvailable():
        desktop.raise_window()
    with asyncio.Runner(loop_factory=lambda: qasync.QEventLoop(application)) as runner:
        runner.run(attend(desktop, seat))
    return 0


async def attend(desktop: Desktop, seat: Seat) -> None:
    """The conversation, until `leaving` is set."""
    talk = asyncio.create_task(desktop.conversation.serve(seat), name="conversation")
    await desktop.leaving.wait()
    talk.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await talk


def application_of() -> QApplication:
    QApplication.setApplicationName("Legion")
    QApplication.setDesktopFileName("legion")
    application = QApplication.instance()
    if not isinstance(application, QApplication):
        application = QApplication(sys.argv[:1])
    application.setQuitOnLastWindowClosed(False)
    application.setWindowIcon(program_icon())
    return application
