"""The week as a grid of hours: drag over it, or move with the arrow keys and press Space."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, Qt
from PySide6.QtGui import QBrush, QColor, QKeyEvent, QMouseEvent, QPainter, QPen
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QSizePolicy,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from legion_client.ui.parts import SMALL, button, column, font_of, label, row
from legion_client.ui.theme import Theme
from legion_client.ui.week import DAYS, Filled, Minutes, covered, hour, ranges, with_hours
from legion_client.ui.words import Words

HOURS = 24
SHOWN_EVERY = 3  # hours: more numbers have no room in a small window
FILLED = Qt.ItemDataRole.UserRole
TOGGLING = (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter)
NIGHT = (22, 7)
WORKDAYS = 5


def setting_of(day: int) -> str:
    return f"schedule.{DAYS[day]}"


def day_names(words: Words) -> tuple[str, ...]:
    return (
        words.tr("Monday"),
        words.tr("Tuesday"),
        words.tr("Wednesday"),
        words.tr("Thursday"),
        words.tr("Friday"),
        words.tr("Saturday"),
        words.tr("Sunday"),
    )


class WeekPicker(QWidget):
    """`changed` is called with all seven settings after the volunteer has changed an hour, never after `show_week`."""

    def __init__(self, theme: Theme, words: Words, changed: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._words = words
        self._changed = changed
        self._minutes: Minutes = covered([[] for _ in DAYS])
        self.grid = Grid(theme, words, self._toggle)
        self._says = label(role="muted", scale=SMALL, wrap=True)
        layout = column(theme.unit // 4)
        layout.addWidget(self.grid)
        layout.addLayout(self._make_buttons(theme))
        layout.addWidget(self._says)
        self.setLayout(layout)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.grid.currentCellChanged.connect(lambda *_: self._tell_cell())
        self._draw()

    def show_week(self, values: Mapping[str, Any]) -> None:
        """By the settings' names."""
        self._minutes = covered([values.get(setting_of(day)) or () for day in range(len(DAYS))])
        self._draw()

    def _make_buttons(self, theme: Theme) -> Any:
        words = self._words
        layout = row(theme.unit // 2)
        every = [(day, at) for day in range(7) for at in range(HOURS)]
        nights = [(day, at) for day, at in every if at >= NIGHT[0] or at < NIGHT[1]]
        spare = [*nights, *((day, at) for day, at in every if day >= WORKDAYS)]
        for text, cells in (
            (words.tr("All hours"), every),
            (words.tr("Nights"), nights),
            (words.tr("Nights and weekends"), spare),
            (words.tr("None"), []),
        ):
            one = button(text)
            one.clicked.connect(lambda _, cells=cells: self._replace(cells))
            layout.addWidget(one)
        layout.addStretch(1)
        return layout

    def _replace(self, cells: Sequence[tuple[int, int]]) -> None:
        self._set(with_hours(covered([[] for _ in DAYS]), cells, on=True))

    def _toggle(self, cells: Sequence[tuple[int, int]], first: tuple[int, int]) -> None:
        """All become what the first one was not."""
        self._set(with_hours(self._minutes, cells, on=hour(self._minutes, *first) != "all"))

    def _set(self, minutes: Minutes) -> None:
        if minutes == self._minutes:
            return
        self._minutes = minutes
        self._draw()
        self._changed({setting_of(day): texts for day, texts in enumerate(ranges(minutes))})

    def _draw(self) -> None:
        for day in range(len(DAYS)):
            for at in range(HOURS):
                self.grid.show_hour(day, at, hour(self._minutes, day, at))
        self._tell_cell()

    def _tell_cell(self) -> None:
        """The hour that the keys are at, and how it is changed: nothing here is told by colour alone."""
        day, at = self.grid.currentRow(), self.grid.currentColumn()
        text = self._words.tr("Drag over hours, or move with the arrow keys and press Space.")
        if day >= 0 and at >= 0:
            text = f"{self.grid.sentence(day, at, hour(self._minutes, day, at))}. {text}"
        self._says.setText(text)


class Grid(QTableWidget):
    """Seven days of 24 hours; `toggled` gets the chosen cells, and the one with which it began."""

    def __init__(
        self,
        theme: Theme,
        words: Words,
        toggled: Callable[[Sequence[tuple[int, int]], tuple[int, int]], None],
    ) -> None:
        super().__init__(len(DAYS), HOURS)
        self._words = words
        self._toggled = toggled
        self._pressed: tuple[int, int] | None = None
        self._days = day_names(words)
        self.setVerticalHeaderLabels(list(self._days))
        self.setHorizontalHeader(HoursHeader(theme, self))
        self.setAccessibleName(words.tr("Hours of the week"))
        self.setItemDelegate(Cell(theme, self))
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        for header in (self.horizontalHeader(), self.verticalHeader()):
            header.setSectionsClickable(False)
            header.setHighlightSections(False)
            header.setFont(font_of(header, SMALL))
        self.horizontalHeader().setMinimumSectionSize(4)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        line = round(theme.unit * 1.4)
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.setCornerButtonEnabled(False)
        self.verticalHeader().setDefaultSectionSize(line)
        self.setFixedHeight(line * len(DAYS) + self.horizontalHeader().sizeHint().height() + 2 * self.frameWidth() + 2)
        for day in range(len(DAYS)):
            for at in range(HOURS):
                self.setItem(day, at, QTableWidgetItem())
        self.setCurrentCell(0, 0)

    def sentence(self, day: int, at: int, filled: Filled) -> str:
        words = self._words
        means = {"all": words.tr("trains"), "none": words.tr("rests"), "part": words.tr("trains in part of it")}
        return words.tr(
            "{day}, {begin} to {end}: {what}", day=self._days[day], begin=at, end=at + 1, what=means[filled]
        )

    def show_hour(self, day: int, at: int, filled: Filled) -> None:
        item = self.item(day, at)
        assert item is not None
        item.setData(FILLED, filled)
        item.setData(Qt.ItemDataRole.AccessibleTextRole, self.sentence(day, at, filled))

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        if event.key() in TOGGLING:
            self._toggle((self.currentRow(), self.currentColumn()))
        else:
            super().keyPressEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        super().mousePressEvent(event)
        index = self.indexAt(event.position().toPoint())
        self._pressed = (index.row(), index.column()) if index.isValid() else None

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        super().mouseReleaseEvent(event)
        pressed, self._pressed = self._pressed, None
        if pressed is not None and event.button() is Qt.MouseButton.LeftButton:
            self._toggle(pressed)

    def _toggle(self, first: tuple[int, int]) -> None:
        chosen = [(index.row(), index.column()) for index in self.selectedIndexes()] or [first]
        self._toggled(chosen, first)
        self.clearSelection()
        self.setCurrentCell(*first)


class HoursHeader(QHeaderView):
    """Every third hour's number, over the room of three."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self._theme = theme

    def paintSection(self, painter: QPainter, rect: QRect, section: int) -> None:  # noqa: N802
        if section % SHOWN_EVERY == 0:
            painter.save()
            painter.setFont(self.font())
            painter.setPen(QColor(self._theme.colors.muted))
            room = rect.adjusted(2, 0, rect.width() * (SHOWN_EVERY - 1), 0)
            painter.drawText(room, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, str(section))
            painter.restore()


class Cell(QStyledItemDelegate):
    """Full hours are filled, parts are hatched; what is chosen has a frame."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        colors, grid = self._theme.colors, option.widget
        rect: QRect = option.rect.adjusted(1, 1, -1, -1)
        accent, filled = QColor(colors.accent), index.data(FILLED)
        ground = QBrush(accent if filled == "all" else QColor(colors.window))
        painter.save()
        painter.fillRect(rect, ground)
        if filled == "part":
            painter.fillRect(rect, QBrush(accent, Qt.BrushStyle.BDiagPattern))
        is_current = isinstance(grid, QTableWidget) and grid.hasFocus() and grid.currentIndex() == index
        chosen = isinstance(grid, QTableWidget) and grid.hasFocus() and grid.selectionModel().isSelected(index)
        if is_current or chosen:
            painter.setPen(QPen(QColor(colors.text), 2))
            painter.drawRect(rect.adjusted(1, 1, -1, -1))
        else:
            painter.setPen(QPen(QColor(colors.border), 1))
            painter.drawRect(rect.adjusted(0, 0, -1, -1))
        painter.restore()
