"""Joining with an invite: never before the volunteer has seen whose server it is."""

from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtGui import QFontDatabase
from PySide6.QtWidgets import QDialog, QFileDialog, QLineEdit, QWidget

from legion.errors import LegionError
from legion.identity import Invite
from legion_client.ui.parts import TITLE, button, card, column, label, row
from legion_client.ui.tools import Tools

LARGEST_FILE_BYTES = 10_000
GROUP = 4  # characters of a fingerprint that people compare at a time
GROUPS_A_LINE = 8


class InviteField(QWidget):
    """A line for an invite, and a button that reads one from a file. `invite` is None with `problem` saying why."""

    changed = Signal()

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self._words = tools.words
        self.invite: Invite | None = None
        self._line = QLineEdit()
        self._line.setPlaceholderText("legion://…")
        self._line.setAccessibleName(self._words.tr("Invite"))
        self._line.textChanged.connect(self._read)
        from_file = button(self._words.tr("From a file…"))
        from_file.clicked.connect(self._choose_file)
        self._problem = label(role="error", wrap=True)
        self._problem.hide()
        line = row(tools.theme.unit // 2)
        line.addWidget(self._line, 1)
        line.addWidget(from_file)
        layout = column(tools.theme.unit // 4)
        layout.addLayout(line)
        layout.addWidget(self._problem)
        self.setLayout(layout)

    def set_text(self, text: str) -> None:
        self._line.setText(text.strip())
        # The end is the secret part; what matters is whose it is.
        self._line.setCursorPosition(0)

    def _read(self, text: str) -> None:
        self.invite, problem = None, ""
        if text.strip():
            try:
                self.invite = Invite.parse(text)
            except LegionError as error:
                problem = str(error)
        self._problem.setText(problem)
        self._problem.setVisible(bool(problem))
        self.changed.emit()

    def _choose_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, self._words.tr("A file with an invite"))
        if chosen:
            self.read_file(Path(chosen))

    def read_file(self, path: Path) -> None:
        """The first line that looks like an invite; else what is wrong stands below the line."""
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(LARGEST_FILE_BYTES)
        except (OSError, UnicodeDecodeError):
            self._line.clear()
            self._problem.setText(self._words.tr("{file} cannot be read.", file=path.name))
            self._problem.show()
            return
        found = next((line for line in text.splitlines() if line.strip().startswith("legion:")), text)
        self.set_text(found)


class ServerCard(QWidget):
    """Whose server an invite leads to: its host, and the fingerprint that the operator can be asked for."""

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self._words = tools.words
        self._host = label(bold=True)
        self._mark = label(wrap=False)
        self._mark.setAccessibleName(self._words.tr("Fingerprint"))
        self._mark.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        inner = column(tools.theme.unit // 4)
        inner.addWidget(label(self._words.tr("Server"), role="caption"))
        inner.addWidget(self._host)
        inner.addWidget(label(self._words.tr("Fingerprint (compare it with the operator's)"), role="caption"))
        inner.addWidget(self._mark)
        layout = column(0)
        layout.addWidget(card(tools.theme, inner))
        self.setLayout(layout)

    def show_invite(self, invite: Invite) -> None:
        self._host.setText(f"{invite.host}:{invite.port}")
        self._mark.setText(fingerprint(invite.authority_sha256))


class JoinDialog(QDialog):
    """Asks for an invite unless it has one, shows the server, and asks whether to join. `invite` once accepted."""

    def __init__(self, tools: Tools, text: str | None, parent: QWidget | None) -> None:
        super().__init__(parent)
        words, unit = tools.words, tools.theme.unit
        self.setWindowTitle(words.tr("Join a run"))
        self._field = InviteField(tools)
        self._server = ServerCard(tools)
        # Not a QDialogButtonBox: it would make "Join" the answer to the Enter key.
        self._join, self._not = button(words.tr("&Join"), role="primary"), button(words.tr("&Do not join"))
        self._join.setAutoDefault(False)
        self._join.clicked.connect(self.accept)
        self._not.clicked.connect(self.reject)
        buttons = row(unit // 2)
        buttons.addStretch(1)
        buttons.addWidget(self._not)
        buttons.addWidget(self._join)
        layout = column(unit // 2)
        layout.setContentsMargins(unit, unit, unit, unit)
        layout.addWidget(label(words.tr("Join this run?"), scale=TITLE, bold=True))
        layout.addWidget(
            label(
                words.tr(
                    "Legion will train a model together with others for the server below. "
                    "It gets this computer's name and hardware, and sees its network address."
                ),
                role="muted",
                wrap=True,
            )
        )
        layout.addWidget(self._field)
        layout.addWidget(self._server)
        layout.addStretch(1)
        layout.addLayout(buttons)
        self.setLayout(layout)
        self._not.setDefault(True)
        self.setMinimumWidth(unit * 34)
        self._field.changed.connect(self._refresh)
        self._field.setVisible(text is None)
        if text is not None:
            self._field.set_text(text)
            # What a link got wrong must be seen too.
            self._field.setVisible(self._field.invite is None)
        self._refresh()

    @property
    def invite(self) -> str | None:
        return None if self._field.invite is None else str(self._field.invite)

    def _refresh(self) -> None:
        found = self._field.invite
        self._join.setEnabled(found is not None)
        self._server.setVisible(found is not None)
        if found is not None:
            self._server.show_invite(found)
        self.adjustSize()


def fingerprint(digest: str) -> str:
    """Hex in groups, as people read it out."""
    groups = [digest[place : place + GROUP] for place in range(0, len(digest), GROUP)]
    lines = [groups[place : place + GROUPS_A_LINE] for place in range(0, len(groups), GROUPS_A_LINE)]
    return "\n".join(" ".join(line) for line in lines)
