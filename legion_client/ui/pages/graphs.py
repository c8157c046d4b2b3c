"""Graphs of what this computer gave and took: an hour, a day or a month."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from pydantic import BaseModel
from PySide6.QtCore import QTimer
from PySide6.QtGui import QHideEvent, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QButtonGroup, QGridLayout, QHBoxLayout, QWidget

from legion_client.control.messages import GetSamples, Sample, SamplesAre
from legion_client.ui.parts import Page, Scrolled, button, column, row
from legion_client.ui.plots import Plot, Series
from legion_client.ui.tools import Tools
from legion_client.ui.words import Words, amount, size

HOUR_S = 3600
RANGES_S = (HOUR_S, 24 * HOUR_S, 30 * 24 * HOUR_S)
POINTS = 400  # a plot is hardly wider in pixels
REDRAWS_PER_RANGE = 360
FASTEST_REDRAW_S, SLOWEST_REDRAW_S = 5.0, 60.0
LEAST_SHOWN = 1 / 6  # of the range: ten minutes of an hour
WIDE = 32  # of the theme's units: room for two plots beside each other
APART_MS = 20  # between two plots: drawn at once they would hold up a click for a tenth of a second


class GraphsPage(Page):
    """Asks for new points only while it is seen."""

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self._tools = tools
        self._range_s = RANGES_S[0]
        self._asked_at = 0.0
        self._plots = make_plots(tools)
        self._waiting: list[tuple[Plot, tuple[Series, ...], float]] = []
        self._drawing = QTimer(self)
        self._drawing.timeout.connect(self._draw_next)
        unit = tools.theme.unit
        content = QWidget()
        layout = column(unit // 2)
        layout.setContentsMargins(unit, unit * 3 // 4, unit, unit)
        layout.addLayout(self._make_ranges())
        self._grid = QGridLayout()
        self._grid.setSpacing(unit // 2)
        self._columns = 0
        self._arrange(2)
        layout.addLayout(self._grid)
        layout.addStretch(1)
        content.setLayout(layout)
        whole = column(0)
        whole.addWidget(Scrolled(content, tools.words.tr("Graphs")))
        self.setLayout(whole)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._ask)

    def _arrange(self, columns: int) -> None:
        if columns == self._columns:
            return
        self._columns = columns
        for place, plot in enumerate(self._plots):
            self._grid.addWidget(plot, place // columns, place % columns)
        for column_number in range(2):
            self._grid.setColumnStretch(column_number, int(column_number < columns))

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        super().resizeEvent(event)
        self._arrange(2 if event.size().width() >= WIDE * self._tools.theme.unit else 1)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        self._choose(self._range_s)

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        super().hideEvent(event)
        self._timer.stop()

    def _make_ranges(self) -> QHBoxLayout:
        words = self._tools.words
        texts = (words.tr("1 hour"), words.tr("24 hours"), words.tr("30 days"))
        layout = row(self._tools.theme.unit // 2)
        group = QButtonGroup(self)
        for range_s, text in zip(RANGES_S, texts, strict=True):
            one = button(text)
            one.setCheckable(True)
            one.setChecked(range_s == self._range_s)
            one.clicked.connect(partial(self._choose, range_s))
            group.addButton(one)
            layout.addWidget(one)
        layout.addStretch(1)
        return layout

    def _choose(self, range_s: int) -> None:
        self._range_s = range_s
        redraw_s = min(SLOWEST_REDRAW_S, max(FASTEST_REDRAW_S, range_s / REDRAWS_PER_RANGE))
        self._timer.start(round(redraw_s * 1000))
        self._ask()

    def _ask(self) -> None:
        if not self.isVisible():
            return
        self._asked_at = time.time()
        since = self._asked_at - self._range_s
        self._tools.conversation.send(GetSamples(since=since, most=POINTS), partial(self._show_samples, since))

    def _show_samples(self, since: float, answer: BaseModel) -> None:
        if not isinstance(answer, SamplesAre):
            return
        words = self._tools.words
        drawings = zip(self._plots, series_of(words, answer.samples), strict=True)
        first = shown_since(since, self._range_s, answer.samples)
        self._waiting = [(plot, series, first) for plot, series in drawings]
        self._draw_next()
        self._drawing.start(APART_MS)

    def _draw_next(self) -> None:
        if not self._waiting:
            self._drawing.stop()
            return
        plot, series, first = self._waiting.pop(0)
        plot.show_series(*series)
        plot.show_range(first, self._asked_at)


def shown_since(since: float, range_s: float, samples: Sequence[Sample]) -> float:
    """Where the axis begins: with the first sample, so that a beginner's few minutes are more than a line."""
    if not samples:
        return since
    return max(since, min(samples[0].at, since + range_s * (1 - LEAST_SHOWN)))


def make_plots(tools: Tools) -> tuple[Plot, ...]:
    words = tools.words
    titles: tuple[tuple[str, Callable[[float], str]], ...] = (
        (words.tr("Tokens a second"), lambda value: amount(words, round(value))),
        (words.tr("Processor"), lambda value: f"{words.number(value * 100)} %"),
        (words.tr("Graphics card"), lambda value: f"{words.number(value * 100)} %"),
        (words.tr("Temperature"), lambda value: f"{words.number(value)} °C"),
        (words.tr("Power"), lambda value: f"{words.number(value)} W"),
        (words.tr("Network"), lambda value: f"{size(words, value)}/s"),
    )
    return tuple(Plot(tools, title, write, x_title=words.tr("Time")) for title, write in titles)


def series_of(words: Words, samples: Sequence[Sample]) -> tuple[tuple[Series, ...], ...]:
    """For each plot its lines."""
    ats = [sample.at for sample in samples]

    def one(name: str, values: list[float | None]) -> Series:
        return Series(name, ats, values)

    return (
        (one(words.tr("Tokens a second"), [sample.tokens_per_s for sample in samples]),),
        (one(words.tr("Processor"), [sample.cpu_load for sample in samples]),),
        (one(words.tr("Graphics card"), [sample.gpu_load for sample in samples]),),
        (one(words.tr("Temperature"), [sample.celsius for sample in samples]),),
        (one(words.tr("Power"), [sample.watts for sample in samples]),),
        (
            one(words.tr("Sent"), [sample.sent_bytes_per_s for sample in samples]),
            one(words.tr("Received"), [sample.received_bytes_per_s for sample in samples]),
        ),
    )
