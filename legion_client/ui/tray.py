"""The icon in the system's tray. All that it can do is in its menu: some trays know no other click."""

from PySide6.QtCore import QObject
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QSystemTrayIcon

from legion_client.ui.actions import Actions
from legion_client.ui.icons import tray_icon
from legion_client.ui.model import View
from legion_client.ui.theme import Theme

LONGEST_HEADER = 60  # characters: a menu should not grow across the screen


class Tray(QObject):
    """Shows a view as shape, colour, tooltip and header line."""

    def __init__(self, actions: Actions, theme: Theme, parent: QObject) -> None:
        super().__init__(parent)
        self._theme = theme
        self._view: View | None = None
        self.menu = QMenu()
        self.header = QAction(self)
        self.header.setEnabled(False)
        self.menu.addAction(self.header)
        self.menu.addSeparator()
        self.menu.addAction(actions.of["pause"])
        self.menu.addAction(actions.of["resume"])
        actions.snooze_menu(self.menu)
        self.menu.addAction(actions.of["finish"])
        self.menu.addAction(actions.of["gpu"])
        self.menu.addSeparator()
        self.menu.addAction(actions.of["open"])
        self.menu.addAction(actions.of["preferences"])
        self.menu.addSeparator()
        self.menu.addAction(actions.of["quit"])
        self.icon = QSystemTrayIcon(self)
        self.icon.setContextMenu(self.menu)
        self.icon.activated.connect(self._activated)
        self._open = actions.of["open"]
        theme.changed.connect(self._draw)

    def show_view(self, view: View) -> None:
        """Redraws only what differs: every change of an icon travels over the bus."""
        before, self._view = self._view, view
        if before is None or before.face != view.face:
            self._draw()
        if before is None or before.tooltip != view.tooltip:
            self.icon.setToolTip(view.tooltip)
        header = view.headline or view.word
        # An ampersand would become an underline.
        self.header.setText(shortened(header).replace("&", "&&"))

    def show(self) -> None:
        self.icon.show()

    def _draw(self) -> None:
        if self._view is not None:
            self.icon.setIcon(tray_icon(self._view.face, self._theme.colors))

    def _activated(self, how: QSystemTrayIcon.ActivationReason) -> None:
        if how in (QSystemTrayIcon.ActivationReason.Trigger, QSystemTrayIcon.ActivationReason.DoubleClick):
            self._open.trigger()


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_HEADER else f"{text[: LONGEST_HEADER - 1].rstrip()}…"
