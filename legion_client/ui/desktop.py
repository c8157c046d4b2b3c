"""Tray and window of one conversation, and the questions that are asked once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer
from PySide6.QtWidgets import QApplication, QCheckBox, QDialog, QMessageBox, QWidget

from legion.errors import AgentNotRunning, AlreadyRunning, LegionError
from legion_client.paths import Home
from legion_client.ui import model
from legion_client.ui.actions import Actions
from legion_client.ui.conversation import Conversation
from legion_client.ui.memory import Memory
from legion_client.ui.model import View
from legion_client.ui.theme import Theme
from legion_client.ui.tools import Tools
from legion_client.ui.tray import Tray, TrayWatch
from legion_client.ui.words import Words

if TYPE_CHECKING:  # what the tray needs not, its methods import: the tray shows half a second earlier
    from legion_client.control.messages import Status
    from legion_client.ui.window import Window

logger = logging.getLogger(__name__)

STATE_FILE = "window.json"
DRAWN_S = 1.0
SECOND_MS = 1000


class Desktop(QObject):
    """Lives as long as the application. Dialogs never block: the loop below them is the agent's too."""

    def __init__(self, application: QApplication, home: Home, words: Words, *, attached: bool = False) -> None:
        super().__init__(application)
        self.application = application
        self.words = words
        self._attached = attached
        self.memory = Memory(home.root / "state" / STATE_FILE)
        self.conversation = Conversation()
        self.theme = Theme(application, self.memory.now.theme)
        self.actions = Actions(self.conversation, words, self.theme, self)
        self.tools = Tools(self.actions, self.conversation, words, self.theme, self.memory, home)
        self.tray = Tray(self.actions, self.theme, self)
        self.has_tray = False
        self.dialog: QDialog | None = None
        self.view: View = model.starting(words)
        self._window: Window | None = None
        self._leaving = asyncio.Event()
        self._drawn = asyncio.Event()
        self._told: tuple[str, float] = ("", 0.0)  # the progress, and since when
        self._seconds = QTimer(self)
        self._seconds.setInterval(SECOND_MS)
        self._seconds.timeout.connect(self._count)
        self._watch: TrayWatch | None = None
        self._links_tried = False
        self.conversation.status_changed.connect(self._take)
        self.conversation.lost.connect(self._lose)
        self.actions.opened.connect(lambda _: self.raise_window())
        self.actions.joining.connect(lambda: self.ask_to_join(None))
        self.actions.quitting.connect(self.ask_to_quit)
        self._draw()

    @property
    def window(self) -> Window:
        """Made when it is first wanted: a start at login needs none."""
        if self._window is None:
            from legion_client.ui.window import Window  # noqa: PLC0415  after the tray

            self._window = Window(self.tools)
            self._window.closed.connect(self._tell_closing)
            self._window.drawn.connect(self._drawn.set)
            self._window.wizard_wanted.connect(lambda: self.set_up(None))
            self._window.show_view(self.view)
        return self._window

    def raise_window(self) -> None:
        self.window.showNormal() if self.window.isMinimized() else self.window.show()
        self.window.raise_()
        self.window.activateWindow()

    def find_tray(self, available: bool) -> None:
        """Shows the icon, or waits for a tray to appear and says once what that means."""
        if available:
            self.tray.show()
            self.has_tray = True
            return
        self._watch = TrayWatch(self)
        self._watch.appeared.connect(lambda: self.find_tray(True))
        self._watch.missing.connect(self._do_without_tray)
        self._watch.start()

    def answer_door(self, invite: str | None) -> None:
        """A second start: the window, and a question if it brought an invite."""
        self.raise_window()
        if invite is not None:
            self.ask_to_join(invite)

    def set_up(self, invite: str | None) -> None:
        """The wizard. What the volunteer chose is sent when it is done; cancelled, nothing changes."""
        from legion_client.control.messages import ChangeSettings, Join  # noqa: PLC0415  after the tray
        from legion_client.ui.wizard import Wizard  # noqa: PLC0415  its settings and sensors take a third of a second

        wizard = Wizard(self.tools, invite, self.window)

        def finish() -> None:
            chosen = wizard.outcome
            if chosen.at_login is not None:
                self._start_at_login(chosen.at_login)
            if chosen.values:
                self.conversation.send(ChangeSettings(values=chosen.values))
            if chosen.invite is not None:
                self.conversation.send(Join(invite=chosen.invite))
            self.window.open_page("home")

        self._open(wizard, finish, lambda: None)
        self.memory.keep(wizard_done=True)

    def ask_to_join(self, invite: str | None) -> None:
        """Always with host and fingerprint first, wherever the invite came from."""
        from legion_client.control.messages import Join  # noqa: PLC0415  after the tray
        from legion_client.ui.joining import JoinDialog  # noqa: PLC0415  the same

        self.raise_window()
        dialog = JoinDialog(self.tools, invite, self.window)

        def join() -> None:
            if dialog.invite is not None:
                self.conversation.send(Join(invite=dialog.invite))

        self._open(dialog, join, lambda: None)

    def ask_to_quit(self) -> None:
        """Asked until the volunteer ticks that it need not be; a window on another process's agent just goes."""
        if self.memory.now.quits_unasked or self._attached or not self.view.joined:
            self.leave()
            return
        tr = self.words.tr
        box = QMessageBox(QMessageBox.Icon.Question, "Legion", tr("Quit Legion?"), parent=self._parent())
        box.setInformativeText(
            tr("Quitting stops training on this computer. To go on without a window, close the window instead.")
        )
        never_again = QCheckBox(tr("Do not ask again"))
        box.setCheckBox(never_again)
        quits = box.addButton(tr("Quit"), QMessageBox.ButtonRole.AcceptRole)
        stays = box.addButton(tr("Keep training"), QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(stays)
        box.setEscapeButton(stays)

        def answer() -> None:
            if box.clickedButton() is quits:
                self.memory.keep(quits_unasked=never_again.isChecked())
                self.leave()

        self._open(box, answer, answer)

    def leave(self) -> None:
        """Ends the program in good order, without a question."""
        self._leaving.set()

    def end(self) -> None:
        """Takes everything down; the application itself may go on, as in tests."""
        if self.dialog is not None:
            self.dialog.reject()
        if self._window is not None:
            self._window.close()
            self._window.deleteLater()
        self.tray.hide()
        self.theme.deleteLater()
        self.deleteLater()

    async def seen(self) -> None:
        """Until the window that was opened at first is drawn; a window manager may hide it, so not for long."""
        if self._window is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAWN_S):
                    await self._drawn.wait()

    async def left(self) -> None:
        await self._leaving.wait()

    def _take(self, status: Status) -> None:
        if status.progress != self._told[0]:
            self._told = (status.progress, time.time())
        self._show_status(status)
        if model.counts(status):  # and only then: it wakes the processor
            self._seconds.start()
        else:
            self._seconds.stop()
        if self._window is not None and self._window.isVisible():
            self._take_links()
        is_new = status.server is None and not self.memory.now.wizard_done
        if is_new and self.dialog is None and self._window is not None and self._window.isVisible():
            self.set_up(None)

    def _count(self) -> None:
        status = self.conversation.status
        if status is None:
            self._seconds.stop()
        elif self._window is not None and self._window.isVisible():
            self._show_status(status)

    def _show_status(self, status: Status) -> None:
        self._show(model.view_of(self.words, status, time.time(), self._told[1]))

    def _lose(self, error: LegionError) -> None:
        if isinstance(error, AlreadyRunning):  # and shows its own window
            self.leave()
        else:
            self._show(model.lost(self.words, sentence_of(error), passes=passes(error)))

    def _show(self, view: View) -> None:
        if view != self.view:
            self.view = view
            self._draw()

    def _draw(self) -> None:
        view = self.view
        self.actions.show_view(view)
        self.tray.show_view(view)
        if self._window is not None:
            self._window.show_view(view)

    def _do_without_tray(self) -> None:
        """The window instead, where none was to be seen; what that means is told once."""
        if self._window is None:
            self.raise_window()
        if not self.memory.now.told_without_tray:
            self.memory.keep(told_without_tray=True)
            self.window.tell(
                self.words.tr(
                    "This desktop shows no tray, so Legion has no icon there. It keeps training when you close this "
                    "window; start Legion again to open it. Should a tray appear, the icon does too."
                )
            )

    def _tell_closing(self) -> None:
        """Once: closing keeps training, and how to come back."""
        if self.memory.now.told_closing or not self.view.joined or self._leaving.is_set():
            return
        self.memory.keep(told_closing=True)
        text = self.words.tr("Legion keeps training when you close this window. Quit stops it.")
        if self.has_tray:
            self.tray.tell("Legion", text)
            return
        box = QMessageBox(QMessageBox.Icon.Information, "Legion", text)
        box.setInformativeText(self.words.tr("This desktop shows no tray: start Legion again to open the window."))
        self._open(box, lambda: None, lambda: None)

    def _start_at_login(self, on: bool) -> None:
        from legion_client import autostart  # noqa: PLC0415  after the tray

        try:
            autostart.switch(on)
        except LegionError as error:
            self.conversation.refused.emit(error)

    def _take_links(self) -> None:
        """Once: what the volunteer changes afterwards holds."""
        if self.memory.now.takes_links or self._links_tried:
            return
        from legion_client import links  # noqa: PLC0415  after the tray

        self._links_tried = True
        if not links.is_known(sys.platform):
            return
        try:
            links.switch(True, takes_over=False)
            self.memory.keep(takes_links=True)
        except LegionError as error:
            logger.warning("links are not taken error=%s", error)

    def _open(self, dialog: QDialog, accepted: Callable[[], None], rejected: Callable[[], None]) -> None:
        """One dialog at a time; a newer question takes the place of an older one."""
        if self.dialog is not None:
            self.dialog.reject()
        self.dialog = dialog

        def close(result: int) -> None:
            if self.dialog is dialog:
                self.dialog = None
            (accepted if result == QDialog.DialogCode.Accepted else rejected)()
            dialog.deleteLater()

        dialog.finished.connect(close)
        dialog.open()

    def _parent(self) -> QWidget | None:
        return self._window if self._window is not None and self._window.isVisible() else None


def passes(error: LegionError) -> bool:
    """Whether an agent that is away may come back without anybody doing something."""
    return error.retryable or isinstance(error, AgentNotRunning)


def sentence_of(error: LegionError) -> str:
    return f"{error} {error.hint}".strip()
