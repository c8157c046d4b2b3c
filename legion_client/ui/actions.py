"""Everything that can be done from the tray and the menu bar: one QAction each, shared by both."""

import time
from collections.abc import Callable
from typing import get_args

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu

from legion_client.ui.conversation import Conversation
from legion_client.ui.icons import icon
from legion_client.ui.model import Action, View, pause_until
from legion_client.ui.theme import Theme
from legion_client.ui.words import Words

SHORTCUTS: dict[Action, str] = {"pause": "Ctrl+P", "resume": "Ctrl+Shift+P", "preferences": "Ctrl+,", "quit": "Ctrl+Q"}
ICONS: dict[Action, str] = {"pause": "pause", "resume": "resume", "finish": "finish"}


class Actions(QObject):
    """`show_view` keeps texts, marks and what can be chosen as the view says."""

    opened = Signal(str)  # a page, or "" for the window as it is
    joining = Signal()
    quitting = Signal()

    def __init__(self, conversation: Conversation, words: Words, theme: Theme, parent: QObject) -> None:
        super().__init__(parent)
        self._conversation = conversation
        self._words = words
        self._theme = theme
        self.of: dict[Action, QAction] = {}
        for name in get_args(Action):
            action = QAction(self)
            action.triggered.connect(self._doing(name))
            if name in SHORTCUTS:
                action.setShortcut(QKeySequence(SHORTCUTS[name]))
            self.of[name] = action
        self.of["gpu"].setCheckable(True)
        self.of["finish"].setCheckable(True)
        theme.changed.connect(self._draw_icons)
        self._draw_icons()

    def show_view(self, view: View) -> None:
        for name, entry in view.entries.items():
            action = self.of[name]
            action.setText(entry.text)
            action.setEnabled(entry.enabled)
            action.setVisible(entry.visible)
            if entry.checked is not None:
                action.setChecked(entry.checked)

    def snooze_menu(self, parent: QMenu) -> QMenu:
        menu = parent.addMenu(self._words.tr("&Snooze"))
        self.fill_snoozes(menu)
        return menu

    def fill_snoozes(self, menu: QMenu) -> None:
        for name in ("snooze_15", "snooze_60", "snooze_240", "snooze_tomorrow"):
            menu.addAction(self.of[name])

    def _draw_icons(self) -> None:
        for name, drawing in ICONS.items():
            self.of[name].setIcon(icon(drawing, self._theme.colors.text, self._theme.colors.line))

    def _doing(self, name: Action) -> Callable[[], None]:
        match name:
            case "gpu":
                return self._switch_gpu
            case "open":
                return lambda: self.opened.emit("")
            case "preferences":
                return lambda: self.opened.emit("preferences")
            case "join":
                return self.joining.emit
            case "quit":
                return self.quitting.emit
            case _:
                return lambda: self._ask(name)

    def _ask(self, name: Action) -> None:
        from legion_client.control.messages import Finish, Pause, Resume  # noqa: PLC0415  after the tray

        match name:
            case "resume":
                self._conversation.send(Resume())
            case "finish":
                self._conversation.send(Finish())
            case _:
                self._conversation.send(Pause(until=pause_until(name, time.time())))

    def _switch_gpu(self) -> None:
        from legion_client.control.messages import SetMode  # noqa: PLC0415  after the tray

        # The mark has changed already: it is what the volunteer wants, whatever the agent has told so far.
        wanted = self.of["gpu"].isChecked()
        self._conversation.send(SetMode(axis="gpu", mode="auto" if wanted else "never"))
