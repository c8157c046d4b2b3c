"""The log files as they grow, from a level on, and a copy that can be shown to anybody."""

import getpass
import platform
from functools import partial
from pathlib import Path

from PySide6.QtCore import QTimer, QUrl
from PySide6.QtGui import QDesktopServices, QFontDatabase, QGuiApplication, QHideEvent, QShowEvent
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QPlainTextEdit, QStackedWidget

from legion_client.ui import report
from legion_client.ui.parts import Page, button, column, empty_note, label, row
from legion_client.ui.tools import Tools

READ_EVERY_S = 2
MOST_LINES = 5000
FOR_REPORT_LINES = 400


class LogsPage(Page):
    """Reads the files only while it is seen, and only when they have changed."""

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self._tools = tools
        self._state: dict[Path, tuple[int, float]] = {}
        self._lines: list[report.Line] = []
        words, unit = tools.words, tools.theme.unit
        self._text = QPlainTextEdit()
        self._text.setReadOnly(True)
        self._text.setMaximumBlockCount(MOST_LINES)
        self._text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self._text.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self._text.setAccessibleName(words.tr("Log"))
        self._empty = empty_note(words.tr("Nothing has been logged at this level."))
        self._stack = QStackedWidget()
        self._stack.addWidget(self._text)
        self._stack.addWidget(self._empty)
        layout = column(unit // 2)
        layout.setContentsMargins(unit, unit * 3 // 4, unit, unit)
        layout.addLayout(self._make_tools())
        layout.addWidget(self._stack, 1)
        self._note = label(
            words.tr("The copy leaves out keys, invites, addresses, names and folders. Read it before you send it."),
            role="muted",
            wrap=True,
        )
        folder = button(words.tr("Open the folder"))
        folder.clicked.connect(partial(QDesktopServices.openUrl, QUrl.fromLocalFile(str(self._folder))))
        below = row(unit // 2)
        below.addWidget(self._note, 1)
        below.addWidget(folder)
        layout.addLayout(below)
        self.setLayout(layout)
        self._timer = QTimer(self)
        self._timer.setInterval(READ_EVERY_S * 1000)
        self._timer.timeout.connect(self._read)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        self._timer.start()
        self._read()
        self._show()

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        super().hideEvent(event)
        self._timer.stop()

    def report_text(self) -> str:
        """What "Copy for a bug report" copies."""
        status = self._tools.conversation.status
        version = status.version if status else "?"
        state = "" if status is None else f"{status.face}: {status.headline}"
        names = [platform.node(), getpass.getuser(), Path.home().name, status.name if status else ""]
        return report.bug_report(version, state, self._lines[-FOR_REPORT_LINES:], names)

    def _make_tools(self) -> QHBoxLayout:
        words = self._tools.words
        self._level = QComboBox()
        self._level.setAccessibleName(words.tr("Level"))
        everything, warnings = words.tr("Everything"), words.tr("Warnings and errors")
        texts = (everything, words.tr("From information on"), warnings, words.tr("Errors"))
        for level, text in zip(report.LEVELS, texts, strict=True):
            self._level.addItem(text, level)
        self._level.setCurrentIndex(1)
        self._level.currentIndexChanged.connect(self._show)
        self._copy = button(words.tr("Copy for a bug report"), role="primary")
        self._copy.clicked.connect(self._copy_report)
        layout = row(self._tools.theme.unit // 2)
        layout.addWidget(self._level)
        layout.addStretch(1)
        layout.addWidget(self._copy)
        return layout

    @property
    def _folder(self) -> Path:
        return self._tools.home.engine_log.parent

    def _read(self) -> None:
        files = sorted(self._folder.glob("*.log"))
        state = {}
        for path in files:
            found = path.stat()
            state[path] = (found.st_size, found.st_mtime)
        if state == self._state:
            return
        self._state = state
        lines = [line for path in files for line in report.parse(report.tail(path))]
        self._lines = sorted(lines, key=lambda line: line.at) if len(files) > 1 else lines
        self._show()

    def _show(self) -> None:
        lines = report.from_level(self._lines, self._level.currentData())[-MOST_LINES:]
        bar = self._text.verticalScrollBar()
        at_end = bar.value() >= bar.maximum() - 1
        self._text.setPlainText("\n".join(map(str, lines)))
        if at_end:
            bar.setValue(bar.maximum())
        self._stack.setCurrentWidget(self._text if lines else self._empty)

    def _copy_report(self) -> None:
        QGuiApplication.clipboard().setText(self.report_text())
        self._note.setText(self._tools.words.tr("Copied. Read it before you send it."))
