"""One editor for each kind of setting: what it shows and takes is the value as JSON has it."""

import json
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QLineEdit, QWidget

from legion_client.settings import Setting
from legion_client.ui.programs import ProgramList
from legion_client.ui.theme import Theme
from legion_client.ui.words import Words

HIGHEST = 1e9
PROGRAM_LISTS = ("programs.exclusive", "programs.exclusive_graphics")


class Quiet(QDoubleSpinBox):
    """A number that the wheel does not change while it scrolls the page over it."""

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class QuietChoice(QComboBox):
    """A choice that the wheel leaves alone."""

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802
        event.ignore()


class Editor:
    """`widget` calls `changed` with the new value after the volunteer has changed it, never after `show`."""

    def __init__(self, setting: Setting, theme: Theme, words: Words, changed: Callable[[str, Any], None]) -> None:
        self.setting = setting
        self._theme = theme
        self._words = words
        self._changed = changed
        self._shows = False
        self.widget = self._make()
        if not self.is_wide:
            self.widget.setAccessibleName(words.tr(setting.description or setting.name))
            self.widget.setAccessibleDescription(setting.name)

    @property
    def is_wide(self) -> bool:
        """It stands below its text, as wide as the page."""
        return isinstance(self.widget, ProgramList)

    def show(self, value: Any) -> None:
        self._shows = True
        match self.widget:
            case QCheckBox():
                self.widget.setChecked(bool(value))
            case QDoubleSpinBox():
                self.widget.setValue(float(value or 0))
            case QComboBox():
                self.widget.setCurrentIndex(max(0, self.widget.findData(value)))
            case QLineEdit():
                self.widget.setText(text_of(value))
            case ProgramList():
                self.widget.show_programs(value)
        self._shows = False

    def _make(self) -> QWidget:
        if self.setting.name in PROGRAM_LISTS:
            return ProgramList(self.setting, self._theme, self._words, self._tell_value)
        match self.setting.kind:
            case "switch":
                return self._switch()
            case "number":
                return self._number()
            case "choice":
                return self._choice()
            case _:
                return self._text()

    def _tell(self, value: Any) -> None:
        if not self._shows:
            self._changed(self.setting.name, value)

    def _tell_value(self, _: str, value: Any) -> None:
        self._tell(value)

    def _switch(self) -> QWidget:
        made = QCheckBox()
        made.toggled.connect(self._tell)
        return made

    def _number(self) -> QWidget:
        made, setting = Quiet(), self.setting
        made.setDecimals(0 if setting.whole else 1)
        made.setRange(setting.least or 0, HIGHEST if setting.most is None else setting.most)
        if setting.unit:
            made.valueChanged.connect(lambda value: made.setSuffix(f" {unit_of(setting.unit, value)}"))
            made.setSuffix(f" {setting.unit}")
        made.setKeyboardTracking(False)
        made.lineEdit().setTextMargins(self._theme.unit // 2, 0, 0, 0)  # a style sheet's padding is not heeded there
        made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        made.valueChanged.connect(lambda value: self._tell(round(value) if setting.whole else value))
        return made

    def _choice(self) -> QWidget:
        made = QuietChoice()
        known = {
            "auto": self._words.tr("Automatic"),
            "always": self._words.tr("Always"),
            "never": self._words.tr("Never"),
        }
        for choice in self.setting.choices:
            made.addItem(known.get(choice, choice), choice)
        made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        made.activated.connect(lambda _: self._tell(made.currentData()))
        return made

    def _text(self) -> QWidget:
        made = QLineEdit()
        made.setPlaceholderText(self._hint())
        made.editingFinished.connect(lambda: self._tell_text(made))
        return made

    def _hint(self) -> str:
        if self.setting.kind == "list":
            return self._words.tr("separated by commas")
        return self._words.tr("by itself") if self.setting.default is None else ""

    def _tell_text(self, made: QLineEdit) -> None:
        if made.isModified():
            made.setModified(False)
            self._tell(value_of(self.setting, made.text()))


def unit_of(unit: str, value: float) -> str:
    """One core, but two cores; letters of units of measure stay."""
    return unit.removesuffix("s") if value == 1 and len(unit) > 2 else unit


def text_of(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def value_of(setting: Setting, text: str) -> Any:
    """Nothing typed means the default; what is no number stays text, and the agent says what is wrong with it."""
    stripped = text.strip()
    if setting.kind == "list":
        parts = [part.strip() for part in stripped.split(",") if part.strip()]
        return [json.loads(part) if setting.items == "number" and part.isdecimal() else part for part in parts]
    return stripped or None
