"""The first run: what Legion does, what it may use, who gets the credit, and when. Every page can be skipped."""

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QRadioButton,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from legion.identity import Invite
from legion_client.control.messages import DeviceNow, Status
from legion_client.machine.probe import physical_cores
from legion_client.machine.reasons import Reason
from legion_client.settings import Preset, Settings, effect, preset_values, with_preset
from legion_client.ui.icons import icon
from legion_client.ui.joining import InviteField, ServerCard
from legion_client.ui.model import can_use, cards_of, device_facts
from legion_client.ui.parts import TITLE, button, card, clear, column, label, row
from legion_client.ui.tools import Tools
from legion_client.ui.words import Words, spoken

NAME_LENGTH = 64
WIDTH = 38  # lines of text
SERVER_CARD_LINES = 7  # what the first page grows by when an invite is pasted
SETTINGS = {Reason.GPU_EXCLUDED, Reason.GPU_DISABLED, Reason.CPU_DISABLED}  # that a tick stands for
MODES = {Reason.GPU_OFF, Reason.CPU_OFF}

Place = tuple[str, int | None]  # of a device: its kind and, of a card, its driver's number


class Outcome(NamedTuple):
    """What the volunteer chose; a page that was skipped leaves everything of it as it is."""

    values: dict[str, Any]
    invite: str | None
    at_login: bool | None


class Step(QWidget):
    """One page: a heading, an explanation, and its choices."""

    def __init__(self, tools: Tools, title: str, text: str) -> None:
        super().__init__()
        self.tools = tools
        self.content: QVBoxLayout = column(tools.theme.unit // 2)
        self.content.addWidget(label(title, scale=TITLE, bold=True, wrap=True))
        self.content.addWidget(label(text, role="muted", wrap=True))
        self.setLayout(self.content)

    def values(self) -> dict[str, Any]:
        """Settings by dotted name."""
        return {}


class What(Step):
    """What it does and costs, and an invite if there is one."""

    def __init__(self, tools: Tools, invite: str | None) -> None:
        words = tools.words
        super().__init__(
            tools,
            words.tr("Your idle computer can train a language model"),
            words.tr(
                "Legion joins idle computers over the internet into one that trains a language model, which everybody "
                "may then use. It works while you do not, and steps aside when you play, unplug or need the computer. "
                "It costs electricity, a few hundred watts with a large graphics card, and some of your connection. "
                "It reads none of your files. The server and the other computers see your network address."
            ),
        )
        self.content.addSpacing(tools.theme.unit // 2)
        self.content.addWidget(label(words.tr("Do you have an invite?"), bold=True))
        self.field = InviteField(tools)
        self._server = ServerCard(tools)
        self._later = label(
            words.tr("Without one, ask the person who runs a server; you can join later."), role="muted", wrap=True
        )
        for widget in (self.field, self._server, self._later):
            self.content.addWidget(widget)
        self.content.addStretch(1)
        self.field.changed.connect(self._refresh)
        self.field.set_text(invite or "")
        self._refresh()

    def _refresh(self) -> None:
        found = self.field.invite
        self._server.setVisible(found is not None)
        self._later.setVisible(found is None)
        if found is not None:
            self._server.show_invite(found)


class HardwareStep(Step):
    """Each device with a tick, or why it cannot be used, as the agent finds them; and how much of them."""

    changed = Signal()  # what it shows

    def __init__(self, tools: Tools) -> None:
        words, unit = tools.words, tools.theme.unit
        super().__init__(
            tools, words.tr("What may Legion use?"), words.tr("You can change every detail in the preferences.")
        )
        self._ticks: dict[Place, QCheckBox] = {}
        self._chosen: dict[Place, bool] = {}  # by hand
        self._left_out: list[int] = []  # cards without a tick that the volunteer has excluded before
        self._shown: tuple[object, ...] | None = None
        self._found = column(unit // 3)
        self.content.addWidget(card(tools.theme, self._found))
        self.content.addWidget(label(words.tr("How much of it?"), bold=True))
        self.content.addWidget(self._make_presets(words, unit))
        self.content.addStretch(1)
        self.show_status(tools.conversation.status)
        tools.conversation.status_changed.connect(self.show_status)

    def show_status(self, status: Status | None) -> None:
        """Cards come when their driver answers, and go; what was ticked by hand stays."""
        devices = () if status is None else status.devices
        problem = "" if status is None else self._problem(status)
        shown = (devices, problem)
        if shown == self._shown:
            return
        self._shown = shown
        clear(self._found)
        self._ticks = {}
        self._left_out = [device.index for device in devices if device.index is not None and is_excluded(device)]
        cards = cards_of(devices)
        for device in devices:
            self._show_device(device, numbered=len(cards) > 1)
        if not cards:
            self._found.addWidget(label(problem, role="muted", wrap=True))
        self._show_effects(cards_are_used=not devices or any(map(can_use, cards)))
        order = (*self._ticks.values(), *self._choices.values())
        for one, following in pairwise(order):
            self.setTabOrder(one, following)
        self.changed.emit()

    def values(self) -> dict[str, Any]:
        values: dict[str, Any] = preset_values(self.preset)
        ticked = {place: tick.isChecked() for place, tick in self._ticks.items()}
        cards = {index: used for (kind, index), used in ticked.items() if kind != "cpu"}
        if cards:
            values["graphics.enabled"] = any(cards.values())
            left_out = {index for index, used in cards.items() if not used and index is not None}
            kept = {index for index in self._left_out if index not in cards}
            values["graphics.excluded"] = sorted(left_out | kept) if values["graphics.enabled"] else None
        for (kind, _), used in ticked.items():
            if kind == "cpu":
                values["processor.enabled"] = used
        return values

    def _problem(self, status: Status) -> str:
        """Why there is no card."""
        words = self.tools.words
        if not status.devices:
            return words.tr("Looking for what this computer has…")
        known = next((why for why in status.reasons if why.slug == Reason.GPU_PROBLEM), None)
        if known is not None:
            return spoken(words, known.said, known.sentence)
        return words.tr("No graphics card that can train was found, so the processor does it.")

    def _show_device(self, device: DeviceNow, *, numbered: bool) -> None:
        words = self.tools.words
        text = "  ·  ".join([device.name, *device_facts(words, device, numbered=numbered)])
        slugs = {why.slug for why in device.reasons}
        # A mode, unlike these, is no setting of this page: what it stops is said beside the tick.
        told = [why for why in device.reasons if not can_use(device) or why.slug in MODES]
        if can_use(device):
            place = device.kind, device.index
            tick = QCheckBox(text)
            tick.setChecked(self._chosen.get(place, not slugs & SETTINGS))
            tick.toggled.connect(partial(self._choose, place))
            self._ticks[place] = tick
            self._found.addWidget(tick)
        else:
            line = row(self.tools.theme.unit // 2)
            mark = QLabel()
            side = self.tools.theme.unit
            mark.setPixmap(icon("cross", self.tools.theme.colors.muted).pixmap(side, side))
            mark.setAccessibleName(words.tr("cannot be used"))
            line.addWidget(mark)
            line.addWidget(label(text), 1)
            self._found.addLayout(line)
        for why in told[:1]:
            reason = label(spoken(words, why.said, why.sentence), role="muted", wrap=True)
            reason.setContentsMargins(self.tools.theme.unit * 3 // 2, 0, 0, 0)
            self._found.addWidget(reason)

    def _choose(self, place: Place, checked: bool) -> None:
        self._chosen[place] = checked

    def _show_effects(self, *, cards_are_used: bool) -> None:
        for preset, text in self._effects.items():
            settings = with_preset(Settings(), preset)
            graphics = settings.graphics.model_copy(update={"enabled": cards_are_used})
            expected = effect(settings.model_copy(update={"graphics": graphics}), physical_cores())
            text.setText(expected)
            self._choices[preset].setAccessibleDescription(expected)

    @property
    def preset(self) -> Preset:
        return next(preset for preset, choice in self._choices.items() if choice.isChecked())

    def _make_presets(self, words: Words, unit: int) -> QWidget:
        titles: dict[Preset, str] = {
            "light": words.tr("Light"),
            "balanced": words.tr("Balanced"),
            "full": words.tr("Full"),
        }
        group = QButtonGroup(self)
        self._choices: dict[Preset, QRadioButton] = {}
        self._effects: dict[Preset, QLabel] = {}
        grid = QGridLayout()
        grid.setHorizontalSpacing(unit)
        grid.setVerticalSpacing(unit // 2)
        grid.setColumnStretch(1, 1)
        for place, (preset, title) in enumerate(titles.items()):
            choice = QRadioButton(title)
            choice.setChecked(preset == "balanced")
            group.addButton(choice)
            self._choices[preset], self._effects[preset] = choice, label(role="muted", wrap=True)
            grid.addWidget(choice, place, 0, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(self._effects[preset], place, 1)
        return card(self.tools.theme, grid)


def is_excluded(device: DeviceNow) -> bool:
    return any(why.slug == Reason.GPU_EXCLUDED for why in device.reasons)


class WhoStep(Step):
    """Names are the volunteer's own choice: nothing is taken from the system."""

    def __init__(self, tools: Tools) -> None:
        words = tools.words
        super().__init__(
            tools,
            words.tr("Who gets the credit?"),
            words.tr("The server's lists show both names. Neither is needed: no password, no e-mail."),
        )
        self._nickname, self._team = QLineEdit(), QLineEdit()
        for line, title, hint in (
            (self._nickname, words.tr("&Nickname"), words.tr("empty: you are not named")),
            (self._team, words.tr("&Team"), words.tr("empty: no team")),
        ):
            line.setMaxLength(NAME_LENGTH)
            line.setPlaceholderText(hint)
            line.setAccessibleName(title.replace("&", ""))
            text = label(title)
            text.setBuddy(line)
            self.content.addWidget(text)
            self.content.addWidget(line)
        self.content.addStretch(1)

    def values(self) -> dict[str, Any]:
        return {
            "account.nickname": self._nickname.text().strip() or None,
            "account.team": self._team.text().strip() or None,
        }


class WhenStep(Step):
    """When to run, and when not."""

    def __init__(self, tools: Tools) -> None:
        words = tools.words
        super().__init__(
            tools,
            words.tr("When should it run?"),
            words.tr("Legion says why it waits, and you can pause it at any time from its icon."),
        )
        self._at_login = QCheckBox(words.tr("Start Legion when I log in"))
        self._switches = {
            "idle.only": QCheckBox(words.tr("Only while I do not use this computer")),
            "power.pause_on_battery": QCheckBox(words.tr("Pause on battery")),
            "network.pause_when_metered": QCheckBox(words.tr("Pause while the connection costs by volume")),
            "programs.pause_full_screen": QCheckBox(words.tr("Pause while a program covers the screen")),
            "programs.pause_games": QCheckBox(words.tr("Pause while a game runs")),
        }
        inner = column(tools.theme.unit // 2)
        self._at_login.setChecked(True)
        inner.addWidget(self._at_login)
        for name, switch in self._switches.items():
            switch.setChecked(name != "idle.only")
            inner.addWidget(switch)
        self.content.addWidget(card(tools.theme, inner))
        self.content.addStretch(1)

    def follow_preset(self, preset: Preset) -> None:
        """The light one waits for an idle computer; then the tick says so."""
        self._switches["idle.only"].setChecked(preset == "light")

    @property
    def at_login(self) -> bool:
        return self._at_login.isChecked()

    def values(self) -> dict[str, Any]:
        return {name: switch.isChecked() for name, switch in self._switches.items()}


class Wizard(QDialog):
    """`outcome` after it was accepted."""

    def __init__(self, tools: Tools, invite: str | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        unit, words = tools.theme.unit, tools.words
        self._words = words
        self.setWindowTitle(words.tr("Set up Legion"))
        self._skipped: set[int] = set()
        self._what, self._hardware = What(tools, invite), HardwareStep(tools)
        self._who, self._when = WhoStep(tools), WhenStep(tools)
        self._steps: tuple[Step, ...] = (self._what, self._hardware, self._who, self._when)
        self._stack = QStackedWidget()
        for step in self._steps:
            self._stack.addWidget(step)
        self._place = label(role="muted")
        self._back = button(words.tr("&Back"))
        self._skip = button(words.tr("&Skip"))
        self._next = button("", role="primary")
        self._next.setDefault(True)
        self._back.clicked.connect(lambda: self._go(-1))
        self._skip.clicked.connect(lambda: self._leave_page(skipped=True))
        self._next.clicked.connect(lambda: self._leave_page(skipped=False))
        layout = column(unit)
        layout.setContentsMargins(unit * 3 // 2, unit * 3 // 2, unit * 3 // 2, unit)
        layout.addWidget(self._stack)
        layout.addStretch(1)
        layout.addLayout(self._make_buttons(unit))
        self.setLayout(layout)
        self.setMinimumWidth(unit * WIDTH)
        self._hardware.changed.connect(self._fit)
        self._fit()
        self._show()

    @property
    def outcome(self) -> Outcome:
        values: dict[str, Any] = {}
        for number, step in enumerate(self._steps):
            if number not in self._skipped:
                values |= step.values()
        return Outcome(
            values,
            None if self._invite is None else str(self._invite),
            None if len(self._steps) - 1 in self._skipped else self._when.at_login,
        )

    @property
    def _invite(self) -> Invite | None:
        return None if 0 in self._skipped else self._what.field.invite

    def _fit(self) -> None:
        """A dialog asks its pages for their size, which is that of narrower ones, not for their height at its width."""
        unit = self._hardware.tools.theme.unit
        room = {step: step.content.totalHeightForWidth(unit * (WIDTH - 3)) for step in self._steps}
        if self._what.field.invite is None:
            room[self._what] += unit * SERVER_CARD_LINES
        self._stack.setFixedHeight(max(room.values()))

    def _make_buttons(self, unit: int) -> QHBoxLayout:
        layout = row(unit // 2)
        layout.addWidget(self._place)
        layout.addStretch(1)
        for one in (self._back, self._skip, self._next):
            layout.addWidget(one)
        return layout

    def _leave_page(self, *, skipped: bool) -> None:
        number = self._stack.currentIndex()
        (self._skipped.add if skipped else self._skipped.discard)(number)
        if number == 1 and not skipped:
            self._when.follow_preset(self._hardware.preset)
        if number == len(self._steps) - 1:
            self.accept()
        else:
            self._go(1)

    def _go(self, by: int) -> None:
        self._stack.setCurrentIndex(self._stack.currentIndex() + by)
        self._show()

    def _show(self) -> None:
        number, last = self._stack.currentIndex(), len(self._steps) - 1
        self._back.setEnabled(number > 0)
        self._place.setText(self._words.tr("Page {n} of {all}", n=number + 1, all=last + 1))
        done = self._words.tr("&Finish") if self._invite is None else self._words.tr("&Start training")
        self._next.setText(done if number == last else self._words.tr("&Next"))
        self._skip.setAccessibleName(self._words.tr("Skip this page"))
