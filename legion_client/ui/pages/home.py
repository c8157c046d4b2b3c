"""Home: what this computer does now, why, and what it has given. Fits a window of 800 x 500."""

from functools import partial

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QMenu, QProgressBar, QVBoxLayout, QWidget

from legion_client.ui.icons import icon, pixmap
from legion_client.ui.model import DeviceRow, Reason, View
from legion_client.ui.parts import TITLE, Figures, Page, Scrolled, button, card, clear, column, empty_note, label, row
from legion_client.ui.tools import Tools

PERCENT = 100


class HomePage(Page):
    """The face, the reasons with a link to the setting that causes each, the figures, the run and the devices."""

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self._actions = tools.actions
        self._words = words = tools.words
        self._theme = theme = tools.theme
        self._view: View | None = None
        unit = theme.unit
        content = QWidget()
        layout = column(unit // 2)
        layout.setContentsMargins(unit, unit * 3 // 4, unit, unit)
        layout.addWidget(card(theme, self._make_state()))
        self._figures = Figures(theme)
        layout.addWidget(self._figures)
        self._run_card = card(theme, self._make_run())
        layout.addWidget(self._run_card)
        self._newcomer = empty_note(
            words.tr(
                "This computer gives nothing yet. The person who runs a server can send you an invite, a link that "
                "begins with legion://. Then everything that happens here, and why, is on this page."
            )
        )
        layout.addWidget(self._newcomer, 1)
        self._devices = column(unit // 4)
        self._device_card = card(theme, self._devices)
        layout.addWidget(self._device_card)
        layout.addStretch(1)
        content.setLayout(layout)
        whole = column(0)
        self.scrolled = Scrolled(content, words.tr("Home"))
        whole.addWidget(self.scrolled)
        self.setLayout(whole)
        theme.changed.connect(self._draw_again)

    def show_view(self, view: View) -> None:
        before, self._view = self._view, view
        self._word.setText(view.word)
        self._headline.setText(view.headline)
        self._headline.setVisible(bool(view.headline))
        self._draw_face()
        self._show_buttons(view)
        if before is None or before.reasons != view.reasons or before.headline != view.headline:
            self._show_reasons(
                [reason for reason in view.reasons if reason.sentence != view.headline or reason.setting]
            )
        self._progress_text.setText(view.progress)
        show_progress(self._progress, view.progress_share, bool(view.progress))
        self._progress_text.setVisible(bool(view.progress))
        self._figures.show_tiles(view.tiles)
        self._figures.setVisible(view.joined)
        self._run_card.setVisible(bool(view.run_line))
        self._run_line.setText(view.run_line)
        self._server_line.setText(view.server_line)
        show_progress(self._run_bar, view.run_share, bool(view.run_line))
        if before is None or before.devices != view.devices:
            self._show_devices(view.devices)
        self._device_card.setVisible(bool(view.devices) and view.joined)
        self._newcomer.setVisible(not view.joined and view.entries["join"].enabled)

    def _make_state(self) -> QHBoxLayout:
        unit = self._theme.unit
        self._face = QLabel()
        self._face.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._word = label(scale=TITLE, bold=True)
        self._headline = label(wrap=True)
        self._reasons = column(unit // 8)
        self._progress_text = label(role="muted", wrap=True)
        self._progress = QProgressBar()
        self._progress.setTextVisible(False)
        self._progress.setAccessibleName(self._words.tr("Progress"))
        texts = column(unit // 4)
        for widget in (self._word, self._headline):
            texts.addWidget(widget)
        texts.addLayout(self._reasons)
        texts.addWidget(self._progress_text)
        texts.addWidget(self._progress)
        texts.addSpacing(unit // 4)
        texts.addLayout(self._make_buttons())
        layout = row(unit)
        layout.addWidget(self._face)
        layout.addLayout(texts, 1)
        return layout

    def _make_buttons(self) -> QHBoxLayout:
        unit = self._theme.unit
        self._pause = button("", role="")
        self._pause.clicked.connect(lambda: self._actions.of["pause"].trigger())
        self._resume = button("", role="primary")
        self._resume.clicked.connect(lambda: self._actions.of["resume"].trigger())
        self._snooze = button(self._words.tr("Snooze"))
        menu = QMenu(self._snooze)
        self._actions.fill_snoozes(menu)
        self._snooze.setMenu(menu)
        self._finish = button("")
        self._finish.clicked.connect(lambda: self._actions.of["finish"].trigger())
        self._join = button(self._words.tr("Join with an invite…"), role="primary")
        self._join.clicked.connect(lambda: self._actions.of["join"].trigger())
        layout = row(unit // 2)
        for widget in (self._join, self._resume, self._pause, self._snooze, self._finish):
            layout.addWidget(widget)
        layout.addStretch(1)
        return layout

    def _make_run(self) -> QVBoxLayout:
        layout = column(self._theme.unit // 3)
        top = row(self._theme.unit)
        self._run_line = label()
        self._server_line = label(role="muted")
        top.addWidget(self._run_line)
        top.addStretch(1)
        top.addWidget(self._server_line)
        self._run_bar = QProgressBar()
        self._run_bar.setTextVisible(False)
        self._run_bar.setAccessibleName(self._words.tr("How far the run is"))
        layout.addLayout(top)
        layout.addWidget(self._run_bar)
        return layout

    def _show_buttons(self, view: View) -> None:
        pause, resume, finish = view.entries["pause"], view.entries["resume"], view.entries["finish"]
        self._join.setVisible(not view.joined and view.entries["join"].enabled)
        for widget, entry in ((self._pause, pause), (self._resume, resume), (self._finish, finish)):
            widget.setText(entry.text.replace("&", ""))
            widget.setEnabled(entry.enabled)
            widget.setVisible(view.joined and entry.visible)
        self._snooze.setVisible(view.joined and pause.visible)
        if finish.checked:
            self._finish.setText(self._words.tr("Finishing this round"))

    def _show_reasons(self, reasons: list[Reason]) -> None:
        clear(self._reasons)
        for reason in reasons:
            line = row(self._theme.unit // 2)
            # The headline is the first reason; its sentence stands there already, but for when it ends.
            told = reason.sentence if self._view is None else reason.sentence.removeprefix(self._view.headline).strip()
            if told:
                line.addWidget(as_wide_as_its_text(label(told, role="muted", wrap=True)), 1)
            if reason.setting is not None:
                link = button(self._words.tr("Change this setting"), role="link")
                link.setAccessibleName(self._words.tr("Change the setting {setting}", setting=reason.setting))
                link.setCursor(Qt.CursorShape.PointingHandCursor)
                link.clicked.connect(partial(self._actions.opened.emit, f"preferences:{reason.setting}"))
                line.addWidget(link)
            line.addStretch()
            self._reasons.addLayout(line)

    def _show_devices(self, devices: tuple[DeviceRow, ...]) -> None:
        clear(self._devices)
        for device in devices:
            line = row(self._theme.unit // 2)
            mark = QLabel()
            colors = self._theme.colors
            drawing, color = ("check", colors.faces["training"]) if device.on else ("cross", colors.muted)
            mark.setPixmap(icon(drawing, color).pixmap(self._theme.unit, self._theme.unit))
            mark.setAccessibleName(device.mark)
            line.addWidget(mark)
            line.addWidget(label(device.text))
            line.addWidget(label(device.detail, role="muted", wrap=True), 1)
            self._devices.addLayout(line)

    def _draw_again(self) -> None:
        self._draw_face()
        if self._view is not None:
            self._show_devices(self._view.devices)

    def _draw_face(self) -> None:
        if self._view is None:
            return
        color = self._theme.colors.faces[self._view.face]
        side = self._theme.unit * 3
        self._face.setPixmap(pixmap(f"face-{self._view.face}", color, side, self.devicePixelRatioF()))
        self._face.setAccessibleName(self._view.word)
        self._word.setStyleSheet(f"color: {color}")


def as_wide_as_its_text(text: QLabel) -> QLabel:
    """At most: what stands behind it follows it at once, and where it is too long it takes another line."""
    text.setMaximumWidth(text.fontMetrics().horizontalAdvance(text.text()) + text.fontMetrics().averageCharWidth())
    return text


def show_progress(bar: QProgressBar, share: float | None, visible: bool) -> None:
    """An unknown share is told by the text beside it: a bar that runs to and fro wakes the processor all the time."""
    bar.setVisible(visible and share is not None)
    bar.setRange(0, PERCENT * 10)
    bar.setValue(round((share or 0) * PERCENT * 10))
