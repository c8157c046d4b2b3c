"""The run that this computer takes part in: how far it is, how its loss falls, and what the model writes by now."""

import textwrap
from collections.abc import Sequence

from pydantic import BaseModel
from PySide6.QtCore import QTimer
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from legion_client.control.messages import CurveIs, CurvePoint, GetCurve
from legion_client.ui.model import View
from legion_client.ui.parts import Figures, Page, Scrolled, card, column, empty_note, label
from legion_client.ui.plots import Plot, Series
from legion_client.ui.tools import Tools

REDRAW_S = 30
MOST_LINES, MOST_WIDTH = 12, 90  # of a sample, in letters
POINTS = 500  # a plot is hardly wider in pixels


class RunPage(Page):
    """Asks for the curve while it is seen."""

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self._tools = tools
        self._has_sample = False
        words, unit = tools.words, tools.theme.unit
        content = QWidget()
        layout = column(unit // 2)
        layout.setContentsMargins(unit, unit * 3 // 4, unit, unit)
        self._facts = Figures(tools.theme)
        self._curve = Plot(
            tools,
            words.tr("Loss"),
            lambda value: words.number(value, 2),
            write_x=lambda value: words.number(value),
            x_title=words.tr("Step"),
        )
        self._curve.setMinimumHeight(unit * 15)
        self._sample_card = card(tools.theme, self._make_sample())
        self._empty = empty_note(words.tr("This computer takes part in no run yet. Join one with an invite."))
        layout.addWidget(self._facts)
        layout.addWidget(self._curve, 1)
        layout.addWidget(self._sample_card)
        layout.addWidget(self._empty, 1)
        content.setLayout(layout)
        whole = column(0)
        whole.addWidget(Scrolled(content, words.tr("Run")))
        self.setLayout(whole)
        self._timer = QTimer(self)
        self._timer.setInterval(REDRAW_S * 1000)
        self._timer.timeout.connect(self._ask)

    def show_view(self, view: View) -> None:
        has_run = bool(view.run_facts)
        self._facts.show_tiles(view.run_facts)
        self._facts.setVisible(has_run)
        self._curve.setVisible(has_run)
        self._sample_card.setVisible(has_run and self._has_sample)
        self._empty.setVisible(not has_run)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        self._timer.start()
        self._ask()

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        super().hideEvent(event)
        self._timer.stop()

    def _make_sample(self) -> QVBoxLayout:
        layout = column(self._tools.theme.unit // 4)
        self._sample_title = label(self._tools.words.tr("What the model writes"), bold=True)
        self._sample_text = label(wrap=True)
        layout.addWidget(self._sample_title)
        layout.addWidget(self._sample_text)
        return layout

    def _ask(self) -> None:
        self._tools.conversation.send(GetCurve(most=POINTS), self._show_curve)

    def _show_curve(self, answer: BaseModel) -> None:
        if not isinstance(answer, CurveIs):
            return
        words = self._tools.words
        self._curve.show_series(
            series_of(words.tr("In training"), answer.training), series_of(words.tr("On new text"), answer.validation)
        )
        self._has_sample = answer.text is not None
        self._sample_card.setVisible(self._has_sample)
        if answer.text is None:
            return
        step = words.number(answer.text_step or 0)
        self._sample_title.setText(words.tr("What the model writes after {step} steps", step=step))
        self._sample_text.setText(shown_lines(answer.text))


def shown_lines(text: str) -> str:
    """As much as fits: the label breaks lines only between words, and a model that is young writes none."""
    wrapped = (textwrap.wrap(line, MOST_WIDTH, drop_whitespace=False) for line in text.strip("\n").splitlines())
    lines = [line for parts in wrapped for line in parts or [""]]
    return "\n".join(lines[:MOST_LINES])


def series_of(name: str, points: Sequence[CurvePoint]) -> Series:
    """With the band of what each point stands for, where any does."""
    band = [
        (point.loss if point.least is None else point.least, point.loss if point.most is None else point.most)
        for point in points
    ]
    wide = any(least < most for least, most in band)
    return Series(name, [point.step for point in points], [point.loss for point in points], band if wide else None)
