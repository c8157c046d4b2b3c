"""`legion-client` with a face: one asyncio loop that is Qt's too, the tray at once, the agent behind it."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, QTimer
from PySide6.QtGui import QFileOpenEvent
from PySide6.QtWidgets import QApplication, QSystemTrayIcon

from legion_client.paths import Home
from legion_client.ui.conversation import Seat
from legion_client.ui.desktop import Desktop
from legion_client.ui.display import require_display
from legion_client.ui.doorbell import Doorbell
from legion_client.ui.garbage import Garbage
from legion_client.ui.icons import program_icon
from legion_client.ui.language import QtWords, translator

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(
    home: Home,
    seat: Seat,
    *,
    background: bool = False,
    invite: str | None = None,
    doorbell: Doorbell | None = None,
    attached: bool = False,
) -> int:
    """Until the volunteer quits; returns the exit code.

    `seat` gives the agent, and is entered after the tray is seen; leaving it must end an agent of this process in good
    order. `background`: without the window, where a tray comes soon. `invite`: asked about as soon as the agent is
    there. `doorbell`: rung by the agent when a second start wants the window. `attached`: the agent is another
    process and outlives us.
    """
    application = application_of()
    if (language := translator()) is not None:
        application.installTranslator(language)
    desktop = Desktop(application, home, QtWords(), attached=attached)
    links = Links(desktop)
    application.installEventFilter(links)
    application.commitDataRequest.connect(lambda _: desktop.leave())
    has_tray = QSystemTrayIcon.isSystemTrayAvailable()
    desktop.find_tray(has_tray)
    application.processEvents()
    from legion_client.ui.loop import Loop  # noqa: PLC0415  as long as the tray needs to take the icon in

    application.processEvents()
    if not background:  # without a tray it comes all the same, but at login many a tray is late
        desktop.raise_window()
    if invite is not None:
        desktop.ask_to_join(invite)
    if doorbell is not None:
        doorbell.answered_by(desktop.answer_door)
    garbage = Garbage(application)
    with asyncio.Runner(loop_factory=lambda: Loop(application)) as runner:
        runner.run(attend(desktop, seat))
    garbage.stop()
    if doorbell is not None:
        doorbell.answered_by(None)
    return 0


async def attend(desktop: Desktop, seat: Seat) -> None:
    """The conversation, until `leaving` is set or a signal asks for it."""
    loop = asyncio.get_running_loop()
    known = listen_for_signals(loop, desktop.leave)
    talk = asyncio.create_task(converse(desktop, seat), name="conversation")
    try:
        await desktop.left()
    finally:
        for number in known:
            loop.remove_signal_handler(number)
        talk.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await talk


async def converse(desktop: Desktop, seat: Seat) -> None:
    """As soon as there is something to see: an agent that starts takes the processor from what draws it."""
    await desktop.seen()
    await desktop.conversation.serve(seat)


def listen_for_signals(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> tuple[signal.Signals, ...]:
    """Those that now end the program in good order; Windows' loop knows none."""
    try:
        for number in SIGNALS:
            loop.add_signal_handler(number, leave)
    except NotImplementedError:
        return ()
    return SIGNALS


class Links(QObject):
    """macOS hands a `legion://` link to the program as an event; elsewhere it comes as an argument."""

    def __init__(self, desktop: Desktop) -> None:
        super().__init__(desktop.application)
        self._desktop = desktop

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        if isinstance(event, QFileOpenEvent) and event.url().scheme() == "legion":
            text = event.url().toString()
            QTimer.singleShot(0, lambda: self._desktop.ask_to_join(text))
            return True
        return super().eventFilter(watched, event)


def application_of() -> QApplication:
    """The one there is, or a new one; it stays when its last window closes."""
    QApplication.setApplicationName("Legion")
    QApplication.setDesktopFileName("legion")
    application = QApplication.instance()
    if not isinstance(application, QApplication):
        require_display()
        application = QApplication(sys.argv[:1])
    application.setQuitOnLastWindowClosed(False)
    application.setWindowIcon(program_icon())
    return application
