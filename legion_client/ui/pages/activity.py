"""What happened on this computer and why, a sentence each, the newest first."""

import time

from pydantic import BaseModel
from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QCheckBox, QFrame, QHeaderView, QStackedWidget, QTableWidget, QTableWidgetItem

from legion_client.control.messages import GetHappenings, Happening, HappeningsAre
from legion_client.ui.icons import icon
from legion_client.ui.parts import Page, card, column, empty_note, row
from legion_client.ui.tools import Tools
from legion_client.ui.words import moment, spoken

MOST_LINES = 1000


class ActivityPage(Page):
    """Asks for the past once and then listens."""

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self._tools = tools
        self._lines: dict[int, Happening] = {}
        words, unit = tools.words, tools.theme.unit
        self._only_trouble = QCheckBox(words.tr("Only warnings and errors"))
        self._only_trouble.toggled.connect(self._fill)
        self._table = self._make_table()
        self._stack = QStackedWidget()
        self._stack.addWidget(self._table)
        self._empty = empty_note("")
        self._stack.addWidget(self._empty)
        inner = row(0)
        inner.addWidget(self._stack)
        layout = column(unit // 2)
        layout.setContentsMargins(unit, unit * 3 // 4, unit, unit)
        layout.addWidget(self._only_trouble)
        layout.addWidget(card(tools.theme, inner), 1)
        self.setLayout(layout)
        tools.conversation.happened.connect(self._add)
        tools.theme.changed.connect(self._fill)
        self._fill()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        after = max(self._lines, default=0)
        self._tools.conversation.send(GetHappenings(after=after, most=MOST_LINES), self._take)
        self._fill()

    def _make_table(self) -> QTableWidget:
        table = QTableWidget(0, 2)
        table.setAccessibleName(self._tools.words.tr("Activity"))
        table.setObjectName("lines")
        table.horizontalHeader().hide()
        table.verticalHeader().hide()
        table.setShowGrid(False)
        table.setFrameShape(QFrame.Shape.NoFrame)
        table.setWordWrap(True)
        table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        table.setIconSize(QSize(self._tools.theme.unit, self._tools.theme.unit))
        table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        table.horizontalHeader().setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        table.setTabKeyNavigation(False)
        return table

    def _take(self, answer: BaseModel) -> None:
        if isinstance(answer, HappeningsAre):
            self._lines |= {line.number: line for line in answer.happenings}
            self._fill()

    def _add(self, line: Happening) -> None:
        self._lines[line.number] = line
        while len(self._lines) > MOST_LINES:
            del self._lines[min(self._lines)]
        if self.isVisible():
            self._fill()

    def _fill(self) -> None:
        words, colors = self._tools.words, self._tools.theme.colors
        tints = {"info": colors.muted, "warning": colors.faces["waiting"], "error": colors.error}
        only_trouble = self._only_trouble.isChecked()
        lines = [line for line in self._lines.values() if line.level != "info" or not only_trouble]
        lines.sort(key=lambda line: line.number, reverse=True)
        now = time.time()
        self._table.setRowCount(len(lines))
        for place, line in enumerate(lines):
            when = QTableWidgetItem(moment(words, line.at, now))
            when.setIcon(icon(f"level-{line.level}", tints[line.level]))
            when.setData(Qt.ItemDataRole.AccessibleTextRole, f"{line.level}, {when.text()}")
            self._table.setItem(place, 0, when)
            self._table.setItem(place, 1, QTableWidgetItem(spoken(words, line.said, line.sentence)))
        self._empty.setText(
            words.tr("There were no warnings and no errors.")
            if self._lines
            else words.tr("Nothing has happened yet. What Legion does here, and why, will stand on this page.")
        )
        self._stack.setCurrentWidget(self._table if lines else self._empty)
