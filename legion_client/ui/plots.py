"""Curves over time or steps. Each has a table with the same numbers, for people who cannot or do not want to see it."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import pyqtgraph
from pyqtgraph.graphicsItems.DateAxisItem import ZoomLevel
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QHeaderView,
    QSizePolicy,
    QStackedWidget,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from legion_client.ui.parts import SMALL, button, card, column, font_of, label, row
from legion_client.ui.tools import Tools
from legion_client.ui.words import Words

pyqtgraph.setConfigOptions(antialias=True)
LINE_WIDTH = 1.6
DOT_PX = 6
FILL_ALPHA = 28  # of 255
MOST_ROWS = 500
CLOCK = "%H:%M"  # as pyqtgraph's axis writes hours and minutes, whatever the locale
LATE = datetime(2000, 12, 28, 22, 58)  # few moments are longer


class Series(NamedTuple):
    """`xs` ascend; a None in `ys` is a gap. `band`: the least and the most that each value stands for."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    band: Sequence[tuple[float, float]] | None = None


class Axis(pyqtgraph.AxisItem):  # type: ignore[misc]  # ships no types
    """Labels as the words write numbers."""

    def __init__(self, orientation: str, write: Callable[[float], str]) -> None:
        super().__init__(orientation)
        self._write = write

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:  # noqa: N802
        return [self._write(value) for value in values]


class TimeAxis(pyqtgraph.DateAxisItem):  # type: ignore[misc]  # ships no types
    """Local time; hours up to a day, as the words write them, and dates beyond."""

    def __init__(self, words: Words) -> None:
        super().__init__()
        self._words = words
        longest = words.time(LATE)
        for coarsest_s, level in self.zoomLevels.items():
            if any(spec.format == CLOCK for spec in level.tickSpecs):
                self.zoomLevels[coarsest_s] = ZoomLevel(level.tickSpecs, max(level.exampleText, longest, key=len))

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:  # noqa: N802
        if any(spec.spacing == spacing and spec.format == CLOCK for spec in self.zoomLevel.tickSpecs):
            return [self._words.time(datetime.fromtimestamp(value)) for value in values]
        return list(super().tickStrings(values, scale, spacing))


class Plot(QWidget):
    """A card with a title, the newest value, a plot and a switch to the table. Draws only what it is given."""

    def __init__(
        self,
        tools: Tools,
        title: str,
        write: Callable[[float], str],
        *,
        write_x: Callable[[float], str] | None = None,
        x_title: str,
    ) -> None:
        """`write` makes text of a value; `write_x` of a place on the lower axis, which else is a time."""
        super().__init__()
        self._tools = tools
        self._write = write
        self._write_x = write_x
        self._x_title = x_title
        self._series: tuple[Series, ...] = ()
        self._title = label(title, bold=True)
        self._value = label(role="muted")
        # Two plots stand beside each other in a small window too, whatever stands here.
        self._value.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._switch = button(tools.words.tr("Show as table"), role="flat")
        self._switch.setCheckable(True)
        self._switch.setAccessibleName(tools.words.tr("{title}: show as table", title=title))
        self._switch.toggled.connect(self._show_table)
        as_when_shown = self._switch.sizePolicy()
        as_when_shown.setRetainSizeWhenHidden(True)  # titles beside each other stand at one height
        self._switch.setSizePolicy(as_when_shown)
        self._plot = self._make_plot(title)
        self._table = QTableWidget()
        self._table.setAccessibleName(title)
        self._table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self._table.setTabKeyNavigation(False)  # Tab leaves it, the arrow keys go through it
        self._table.verticalHeader().hide()
        self._nothing = label(tools.words.tr("Nothing has been measured yet."), role="muted")
        self._nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._stack = QStackedWidget()
        for widget in (self._plot, self._table, self._nothing):
            self._stack.addWidget(widget)
        self._stack.setMinimumHeight(tools.theme.unit * 8)
        self._lay_out()
        tools.theme.changed.connect(self._draw)
        self._draw()

    def show_series(self, *series: Series) -> None:
        self._series = tuple(one for one in series if any(value is not None for value in one.ys))
        words, has_samples = self._tools.words, any(one.xs for one in series)
        self._nothing.setText(
            words.tr("Not measured on this computer.") if has_samples else words.tr("Nothing has been measured yet.")
        )
        self._draw()

    def show_range(self, first: float, last: float) -> None:
        """The lower axis' ends, whether there is something to show there or not."""
        self._plot.setXRange(first, last, padding=0.01)

    def _lay_out(self) -> None:
        unit = self._tools.theme.unit
        top = row(unit // 2)
        top.addWidget(self._title, 1)
        top.addWidget(self._switch)
        inner = column(unit // 4)
        inner.addLayout(top)
        inner.addWidget(self._value)
        inner.addWidget(self._stack, 1)
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(card(self._tools.theme, inner))
        self.setLayout(layout)

    def _make_plot(self, title: str) -> pyqtgraph.PlotWidget:
        below = TimeAxis(self._tools.words) if self._write_x is None else Axis("bottom", self._write_x)
        plot = pyqtgraph.PlotWidget(axisItems={"bottom": below, "left": Axis("left", self._write)})
        plot.setMouseEnabled(x=False, y=False)
        plot.setMenuEnabled(False)
        plot.hideButtons()
        plot.setAccessibleName(title)
        # Its own idea of a size is 640 x 480.
        plot.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        plot.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        for side in ("bottom", "left"):
            axis = plot.getAxis(side)
            axis.setStyle(tickFont=font_of(self, SMALL), tickLength=0)
        # Wheels scroll the page, not the plot.
        plot.wheelEvent = lambda event: event.ignore()
        return plot

    def _draw(self) -> None:
        colors = self._tools.theme.colors
        self._plot.setBackground(colors.card)
        self._plot.clear()
        for side in ("bottom", "left"):
            axis = self._plot.getAxis(side)
            axis.setTextPen(colors.muted)
            axis.setPen(colors.border)
        self._plot.showGrid(x=False, y=True, alpha=0.18)
        for one, color in zip(self._series, colors.series, strict=False):
            self._draw_line(one, color, fill=len(self._series) == 1)
        self._value.setText(self._newest())
        self._plot.setAccessibleDescription(self._newest())
        self._switch.setVisible(bool(self._series))
        self._show_table(self._switch.isChecked())

    def _draw_line(self, series: Series, color: str, *, fill: bool) -> None:
        nan = float("nan")
        shade = pyqtgraph.mkColor(color)
        shade.setAlpha(FILL_ALPHA)
        if series.band:
            sides = [pyqtgraph.PlotDataItem(list(series.xs), list(side)) for side in zip(*series.band, strict=True)]
            self._plot.addItem(pyqtgraph.FillBetweenItem(*sides, brush=shade))
        known = [value for value in series.ys if value is not None]
        lowest = min(known, default=0.0)
        self._plot.plot(
            list(series.xs),
            [nan if value is None else value for value in series.ys],
            pen=pyqtgraph.mkPen(color, width=LINE_WIDTH),
            connect="finite",
            symbol="o" if len(known) == 1 else None,  # one point alone makes no line
            symbolSize=DOT_PX,
            symbolPen=None,
            symbolBrush=color,
            fillLevel=min(0.0, lowest) if fill and self._write_x is None else None,
            fillBrush=shade if fill and self._write_x is None else None,
        )

    def _newest(self) -> str:
        """With several lines their names too, in the order of their colours."""
        told = []
        for one in self._series:
            value = next((value for value in reversed(one.ys) if value is not None), None)
            if value is not None:
                told.append(f"{one.name} {self._write(value)}" if len(self._series) > 1 else self._write(value))
        return " · ".join(told)

    def _show_table(self, wanted: bool) -> None:
        if not self._series:
            self._stack.setCurrentWidget(self._nothing)
            return
        if wanted:
            self._fill_table()
        self._stack.setCurrentWidget(self._table if wanted else self._plot)

    def _fill_table(self) -> None:
        """The newest first."""
        names = [self._x_title, *(one.name for one in self._series)]
        at: dict[float, list[str]] = {}
        for place, one in enumerate(self._series):
            for x, value in zip(one.xs, one.ys, strict=True):
                cells = at.setdefault(x, [""] * len(self._series))
                cells[place] = "" if value is None else self._write(value)
        newest = sorted(at, reverse=True)[:MOST_ROWS]
        self._table.setColumnCount(len(names))
        self._table.setHorizontalHeaderLabels(names)
        self._table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self._table.setRowCount(len(newest))
        for line, x in enumerate(newest):
            for place, text in enumerate([self._text_of(x), *at[x]]):
                self._table.setItem(line, place, QTableWidgetItem(text))

    def _text_of(self, x: float) -> str:
        if self._write_x is not None:
            return self._write_x(x)
        then = datetime.fromtimestamp(x)
        return f"{self._tools.words.date(then)} {self._tools.words.time(then)}"
