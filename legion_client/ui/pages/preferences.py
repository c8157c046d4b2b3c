"""Every setting, in groups, with a search over names and explanations; a link from a reason leads to its setting."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QKeySequence, QShortcut, QShowEvent
from PySide6.QtWidgets import QCheckBox, QFrame, QGridLayout, QLabel, QLineEdit, QPushButton, QWidget

from legion.errors import LegionError
from legion_client import autostart, links
from legion_client.control.messages import ChangeSettings, GetSettings, SettingsAre
from legion_client.settings import Setting, describe
from legion_client.ui.hours import WeekPicker, setting_of
from legion_client.ui.parts import SMALL, TITLE, Page, Scrolled, button, card, column, empty_note, font_of, label, row
from legion_client.ui.preferences import Editor
from legion_client.ui.programs import ProgramList
from legion_client.ui.tools import Tools
from legion_client.ui.week import DAYS
from legion_client.ui.words import Words

WEEK = tuple(setting_of(day) for day in range(len(DAYS)))


class Row(NamedTuple):
    """One setting on the page, or several that are edited as one."""

    settings: tuple[Setting, ...]
    show: Callable[[Mapping[str, Any]], None]  # values by name
    focus: QWidget
    whole: QWidget
    reset: QPushButton


def group_titles(words: Words) -> dict[str, str]:
    """In the order of the page; a group that is not named here stands at the end by its own name."""
    return {
        "idle": words.tr("When you are away"),
        "processor": words.tr("Processor"),
        "graphics": words.tr("Graphics cards"),
        "memory": words.tr("Memory"),
        "power": words.tr("Battery"),
        "programs": words.tr("Programs and games"),
        "schedule": words.tr("Hours"),
        "network": words.tr("Network"),
        "disk": words.tr("Disk"),
        "modes": words.tr("Run modes"),
        "account": words.tr("You"),
        "": words.tr("This computer"),
    }


class PreferencesPage(Page):
    """Every change is sent at once; what the agent refuses is shown as it was."""

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self._tools = tools
        self._rows: dict[str, Row] = {}
        self._groups: list[tuple[QFrame, list[str]]] = []
        words, unit = tools.words, tools.theme.unit
        self._search = QLineEdit()
        self._search.setPlaceholderText(words.tr("Search the preferences"))
        self._search.setAccessibleName(words.tr("Search the preferences"))
        self._search.setClearButtonEnabled(True)
        self._search.textChanged.connect(self._filter)
        QShortcut(QKeySequence("Ctrl+F"), self).activated.connect(self._search.setFocus)
        self._nothing = empty_note("")
        self._nothing.hide()
        content = QWidget()
        self._column = column(unit // 2)
        self._column.setContentsMargins(unit, 0, unit, unit)
        self._fill()
        content.setLayout(self._column)
        self._scroll = Scrolled(content, words.tr("Preferences"))
        top = row(0)
        top.setContentsMargins(unit, unit * 3 // 4, unit, unit // 2)
        top.addWidget(self._search)
        whole = column(0)
        whole.addLayout(top)
        whole.addWidget(self._scroll, 1)
        self.setLayout(whole)
        tools.conversation.refused.connect(lambda _: self._ask())

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        self._ask()

    def show_place(self, place: str) -> None:
        """`place`: a setting's dotted name."""
        self._search.clear()
        if (found := self._rows.get(place)) is not None:
            # The page may not have been laid out yet.
            QTimer.singleShot(0, partial(self._reveal, found))

    def _reveal(self, found: Row) -> None:
        self._scroll.ensureWidgetVisible(found.whole, 0, self.height() // 3)
        found.focus.setFocus(Qt.FocusReason.OtherFocusReason)

    def _fill(self) -> None:
        groups: dict[str, list[Setting]] = {section: [] for section in group_titles(self._tools.words)}
        for setting in describe().values():
            if setting.kind != "time" and setting.name != "modes.paused":
                groups.setdefault(setting.section, []).append(setting)
        titles = group_titles(self._tools.words)
        self._column.addWidget(self._start_card())
        for section, settings in groups.items():
            if settings:
                self._column.addWidget(self._group(titles.get(section, section), sorted(settings, key=_place)))
        self._column.addWidget(self._nothing)
        self._column.addStretch(1)

    def _group(self, title: str, settings: list[Setting]) -> QFrame:
        unit = self._tools.theme.unit
        layout = column(unit // 2)
        layout.addWidget(label(title, scale=TITLE, bold=True))
        week = [setting for setting in settings if setting.name in WEEK]
        for setting in settings:
            if setting.name in WEEK[1:]:
                continue
            made = self._week_row(week) if setting.name in WEEK else self._row(setting)
            self._rows |= {one.name: made for one in made.settings}
            layout.addWidget(made.whole)
        frame = card(self._tools.theme, layout)
        self._groups.append((frame, [setting.name for setting in settings]))
        return frame

    def _row(self, setting: Setting) -> Row:
        unit, words = self._tools.theme.unit, self._tools.words
        editor = Editor(setting, self._tools.theme, words, self._change)
        text = label(words.tr(setting.description or setting.name), wrap=True)
        grid, reset = self._frame(text, setting.name, (setting.name,))
        side = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if editor.is_wide:
            grid.addWidget(editor.widget, 2, 0, 1, 2)
        else:
            grid.addWidget(editor.widget, 0, 1, 2, 1, side)
        if isinstance(editor.widget, QLineEdit):
            editor.widget.setFixedWidth(unit * 13)
        elif not isinstance(editor.widget, QCheckBox) and not editor.is_wide:
            editor.widget.setMinimumWidth(unit * 9)
        whole = QWidget()
        whole.setLayout(grid)
        text.setBuddy(editor.widget)

        def show(values: Mapping[str, Any]) -> None:
            editor.show(values.get(setting.name, setting.default))

        focus = editor.widget.list if isinstance(editor.widget, ProgramList) else editor.widget
        return Row((setting,), show, focus, whole, reset)

    def _week_row(self, settings: Sequence[Setting]) -> Row:
        words = self._tools.words
        picker = WeekPicker(self._tools.theme, words, self._change_all)
        text = label(words.tr("Hours of the week in which to compute."), wrap=True)
        written = words.tr("{first} to {last}", first=WEEK[0], last=WEEK[-1])
        grid, reset = self._frame(text, written, WEEK)
        grid.addWidget(picker, 2, 0, 1, 2)
        whole = QWidget()
        whole.setLayout(grid)
        text.setBuddy(picker.grid)
        defaults = {setting.name: setting.default for setting in settings}
        return Row(tuple(settings), lambda values: picker.show_week({**defaults, **values}), picker.grid, whole, reset)

    def _frame(self, text: QLabel, written: str, names: Sequence[str]) -> tuple[QGridLayout, QPushButton]:
        """The explanation, and below it the name in the file and the way back to the default."""
        unit, words = self._tools.theme.unit, self._tools.words
        name = label(written, role="muted", scale=SMALL)
        reset = button(words.tr("Back to the default"), role="link")
        reset.setFont(font_of(reset, SMALL))
        reset.setAccessibleName(words.tr("Back to the default: {setting}", setting=written))
        reset.clicked.connect(lambda: self._change_all(dict.fromkeys(names)))
        keep = reset.sizePolicy()
        keep.setRetainSizeWhenHidden(True)
        reset.setSizePolicy(keep)
        below = row(unit // 2)
        below.addWidget(name)
        below.addWidget(reset)
        below.addStretch(1)
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(unit)
        grid.setVerticalSpacing(0)
        grid.addWidget(text, 0, 0)
        grid.addLayout(below, 1, 0)
        grid.setColumnStretch(0, 1)
        return grid, reset

    def _start_card(self) -> QFrame:
        """What belongs to the app and not to the agent."""
        words = self._tools.words
        layout = column(self._tools.theme.unit // 2)
        layout.addWidget(label(words.tr("This app"), scale=TITLE, bold=True))
        self._at_login = QCheckBox(words.tr("Start Legion when I log in"))
        self._at_login.setEnabled(autostart.is_known(sys.platform))
        self._at_login.toggled.connect(self._switch_autostart)
        self._links = QCheckBox(words.tr("Open legion:// links with Legion"))
        self._links.setEnabled(links.is_known(sys.platform))
        self._links.toggled.connect(self._switch_links)
        asks = QCheckBox(words.tr("Ask before quitting, because that stops training"))
        asks.setChecked(not self._tools.memory.now.quits_unasked)
        asks.toggled.connect(lambda on: self._tools.memory.keep(quits_unasked=not on))
        self._trouble = label(role="error", wrap=True)
        self._trouble.hide()
        for widget in (self._at_login, self._links, asks, self._trouble):
            layout.addWidget(widget)
        self._start = card(self._tools.theme, layout)
        return self._start

    def _switch_autostart(self, on: bool) -> None:
        try:
            autostart.switch(on)
        except LegionError as error:
            self._trouble.setText(f"{error} {error.hint}")
        self._trouble.setVisible(on != autostart.is_on())

    def _switch_links(self, on: bool) -> None:
        try:
            links.switch(on)
        except LegionError as error:
            self._trouble.setText(f"{error} {error.hint}")
        self._trouble.setVisible(on != links.is_on())

    def _ask(self) -> None:
        for box, on in ((self._at_login, autostart.is_on()), (self._links, links.is_on())):
            box.blockSignals(True)
            box.setChecked(on)
            box.blockSignals(False)
        self._tools.conversation.send(GetSettings(), self._take)

    def _take(self, answer: BaseModel) -> None:
        if not isinstance(answer, SettingsAre):
            return
        for made in self._rows.values():
            made.show(answer.values)
            made.reset.setVisible(any(setting.name in answer.chosen for setting in made.settings))

    def _change(self, name: str, value: Any) -> None:
        self._change_all({name: value})

    def _change_all(self, values: Mapping[str, Any]) -> None:
        self._tools.conversation.send(ChangeSettings(values=dict(values)), lambda _: self._ask())

    def _filter(self, words: str) -> None:
        any_found = False
        for frame, names in self._groups:
            shown = [name for name in names if any(one.matches(words) for one in self._rows[name].settings)]
            for name in names:
                self._rows[name].whole.setVisible(name in shown)
            frame.setVisible(bool(shown))
            any_found = any_found or bool(shown)
        self._start.setVisible(not words.strip())
        self._nothing.setText(self._tools.words.tr("No setting has “{words}” in its name or explanation.", words=words))
        self._nothing.setVisible(not any_found)


def _place(setting: Setting) -> int:
    """What switches the group on comes first, limits of heat last; the rest stays in the order of the file."""
    if setting.name.endswith(".enabled"):
        return 0
    return 2 if setting.name.endswith("_celsius") else 1
