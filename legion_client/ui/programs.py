"""A list of programs: pick one that runs, choose its file, or type its name."""

from collections.abc import Callable, Iterable
from typing import Any

import psutil
from PySide6.QtCore import Qt
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QComboBox, QFileDialog, QListWidget, QSizePolicy, QWidget

from legion_client.machine.rules import program_name
from legion_client.settings import Setting
from legion_client.ui.parts import button, column, row
from legion_client.ui.theme import Theme
from legion_client.ui.words import Words

LEAST_LINES, MOST_LINES = 2, 6


def running() -> list[str]:
    """Names of the programs of this user, in order."""
    return sorted(own_programs(psutil.process_iter(["name", "uids", "username"]), psutil.Process().username()))


def own_programs(processes: Iterable[psutil.Process], user: str) -> set[str]:
    """Those of `user` that have a name; a process that ends meanwhile has none."""
    return {
        program_name(process.info["name"])
        for process in processes
        if process.info.get("username") == user and process.info.get("name")
    }


class Fresh(QComboBox):
    """Asks what runs each time it is opened, and never because it is only seen."""

    def __init__(self, names: Callable[[], list[str]]) -> None:
        super().__init__()
        self._names = names
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)

    def showPopup(self) -> None:  # noqa: N802
        typed = self.currentText()
        self.clear()
        self.addItems(self._names())
        self.setEditText(typed)
        super().showPopup()

    def wheelEvent(self, event: Any) -> None:  # noqa: N802
        event.ignore()


class Removable(QListWidget):
    """The Delete key takes the chosen line out."""

    def __init__(self, remove: Callable[[], None]) -> None:
        super().__init__()
        self._take_out = remove

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        if event.key() == Qt.Key.Key_Delete:
            self._take_out()
        else:
            super().keyPressEvent(event)


class ProgramList(QWidget):
    """`changed` is called with the new list after the volunteer has changed it, never after `show_programs`."""

    def __init__(
        self,
        setting: Setting,
        theme: Theme,
        words: Words,
        changed: Callable[[str, Any], None],
        names: Callable[[], list[str]] = running,
    ) -> None:
        super().__init__()
        self._setting = setting
        self._words = words
        self._changed = changed
        self._unit = unit = theme.unit
        self.list = Removable(self._remove)
        self.list.setAccessibleName(words.tr(setting.description))
        self.list.setAccessibleDescription(setting.name)
        self.list.setObjectName("field")
        self.list.itemSelectionChanged.connect(self._heed_choice)
        self.name = Fresh(names)
        self.name.setAccessibleName(words.tr("A program to add"))
        line = self.name.lineEdit()
        assert line is not None
        line.setPlaceholderText(words.tr("Choose a running program, or type a name"))
        line.returnPressed.connect(self._add_typed)
        self.add = button(words.tr("Add"))
        self.add.clicked.connect(self._add_typed)
        self.browse = button(words.tr("From a file…"))
        self.browse.clicked.connect(self._choose_file)
        self.remove = button(words.tr("Remove"))
        self.remove.clicked.connect(self._remove)
        below = row(unit // 2)
        below.addWidget(self.name, 1)
        for one in (self.add, self.browse, self.remove):
            below.addWidget(one)
        layout = column(unit // 4)
        layout.addWidget(self.list)
        layout.addLayout(below)
        self.setLayout(layout)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._heed_choice()

    @property
    def programs(self) -> list[str]:
        return [self.list.item(line).text() for line in range(self.list.count())]

    def show_programs(self, value: Any) -> None:
        names = [str(name) for name in value or ()]
        if names != self.programs:
            kept = self.list.currentRow()
            self.list.clear()
            self.list.addItems(names)
            self.list.setCurrentRow(min(kept, len(names) - 1))
        self._heed_choice()

    def add_program(self, text: str) -> None:
        """As sensors name it; twice is once."""
        name = program_name(text)
        if name and name not in map(program_name, self.programs):
            self.list.addItem(name)
            self._tell()

    def _add_typed(self) -> None:
        self.add_program(self.name.currentText())
        self.name.setEditText("")

    def _choose_file(self) -> None:
        dialog = QFileDialog(self, self._words.tr("Choose a program"))
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(self.add_program)
        dialog.open()

    def _remove(self) -> None:
        if chosen := self.list.selectedIndexes():
            self.list.takeItem(chosen[0].row())
            self._tell()

    def _tell(self) -> None:
        self._heed_choice()
        self._changed(self._setting.name, self.programs)

    def _heed_choice(self) -> None:
        self.remove.setEnabled(bool(self.list.selectedIndexes()))
        lines = min(MOST_LINES, max(LEAST_LINES, self.list.count()))
        self.list.setFixedHeight(round(self._unit * (1.5 * lines + 0.5)))
