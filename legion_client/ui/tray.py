"""The icon in the system's tray. All that it can do is in its menu: some trays know no other click."""

from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtDBus import QDBusConnection, QDBusServiceWatcher
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QSystemTrayIcon

from legion_client.ui.actions import Actions
from legion_client.ui.icons import tray_icon
from legion_client.ui.model import View
from legion_client.ui.theme import Theme

WATCHER = "org.kde.StatusNotifierWatcher"
SOON_MS, LATER_MS = 1000, 30_000
MOST_SOON = 30
PATIENT_LOOKS = 5
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
        self.icon: QSystemTrayIcon | None = None
        self._open = actions.of["open"]
        theme.changed.connect(self._draw)

    def show(self) -> None:
        """Again when a tray has appeared: an icon that was made without one never finds it."""
        self.hide()
        self.icon = QSystemTrayIcon(self)
        self.icon.setContextMenu(self.menu)
        self.icon.activated.connect(self._activated)
        self._draw()
        self.icon.show()

    def hide(self) -> None:
        if self.icon is not None:
            self.icon.hide()
            self.icon.deleteLater()
            self.icon = None

    def show_view(self, view: View) -> None:
        """Redraws only what differs: every change of an icon travels over the bus."""
        before, self._view = self._view, view
        if before is None or before.face != view.face or before.tooltip != view.tooltip:
            self._draw()
        # An ampersand would become an underline.
        self.header.setText(shortened(view.headline or view.word).replace("&", "&&"))

    def tell(self, title: str, text: str) -> None:
        """A message beside the tray."""
        if self.icon is not None:
            self.icon.showMessage(title, text, self.icon.icon())

    def _draw(self) -> None:
        if self._view is not None and self.icon is not None:
            self.icon.setIcon(tray_icon(self._view.face, self._theme.colors))
            self.icon.setToolTip(self._view.tooltip)

    def _activated(self, how: QSystemTrayIcon.ActivationReason) -> None:
        if how in (QSystemTrayIcon.ActivationReason.Trigger, QSystemTrayIcon.ActivationReason.DoubleClick):
            self._open.trigger()


class TrayWatch(QObject):
    """`appeared`, once, as soon as there is a tray: at login it often comes after us, and on GNOME with an extension.

    A watcher of trays on the bus tells at once; old X11 trays are asked for, each second at first and then rarely.
    `missing`, once, when there is none after a few seconds.
    """

    appeared = Signal()
    missing = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._looks = 0
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._look)
        self._watcher: QDBusServiceWatcher | None = None

    def start(self) -> None:
        bus = QDBusConnection.sessionBus()
        if bus.isConnected():
            self._watcher = QDBusServiceWatcher(
                WATCHER, bus, QDBusServiceWatcher.WatchModeFlag.WatchForRegistration, self
            )
            self._watcher.serviceRegistered.connect(self._look)
        self._timer.start(SOON_MS)

    def _look(self, _: str = "") -> None:
        self._looks += 1
        if self._looks == MOST_SOON:
            self._timer.start(LATER_MS)
        if QSystemTrayIcon.isSystemTrayAvailable():
            self._timer.stop()
            self._watcher = None
            self.appeared.emit()
        elif self._looks == PATIENT_LOOKS:
            self.missing.emit()


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_HEADER else f"{text[: LONGEST_HEADER - 1].rstrip()}…"
