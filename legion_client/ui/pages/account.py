"""Who gets the credit: a name for this computer and others, its page at the server, and how others are linked."""

import time
from typing import TYPE_CHECKING

from pydantic import BaseModel
from PySide6.QtCore import Qt, QTimer, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication, QHideEvent, QShowEvent
from PySide6.QtWidgets import QLineEdit, QVBoxLayout, QWidget

from legion_client.control.accounts import (
    AccountIs,
    ClaimName,
    CodeIs,
    GetAccount,
    LinkAccount,
    NewCode,
    NewPhrase,
    NewSignIn,
    SignInIs,
)
from legion_client.ui.model import View
from legion_client.ui.parts import TITLE, Page, Scrolled, button, card, clear, column, empty_note, label, row
from legion_client.ui.tools import Tools
from legion_client.ui.words import Words, amount, duration

if TYPE_CHECKING:
    from legion.accounts import AccountView

ASK_AGAIN_S = 60
NAME_LENGTH, SECRET_LENGTH = 24, 200


class AccountPage(Page):
    """Asks the server, by the agent, while it is seen. A phrase or code is shown until the page is left."""

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self._tools = tools
        self._joined = False
        words, unit = tools.words, tools.theme.unit
        content = QWidget()
        layout = column(unit // 2)
        layout.setContentsMargins(unit, unit * 3 // 4, unit, unit)
        self._newcomer = card(tools.theme, self._make_newcomer())
        self._known = card(tools.theme, self._make_known())
        self._secret_card = card(tools.theme, self._make_secret())
        self._empty = empty_note(words.tr("This computer takes part in no run yet. Join one with an invite."))
        for widget in (self._newcomer, self._known, self._secret_card):
            layout.addWidget(widget)
            widget.hide()
        layout.addWidget(self._empty, 1)
        layout.addStretch(1)
        content.setLayout(layout)
        whole = column(0)
        whole.addWidget(Scrolled(content, words.tr("Account")))
        self.setLayout(whole)
        self._timer = QTimer(self)
        self._timer.setInterval(ASK_AGAIN_S * 1000)
        self._timer.timeout.connect(self._ask)

    def show_view(self, view: View) -> None:
        joined_now = view.joined and not self._joined
        self._joined = view.joined
        self._empty.setVisible(not view.joined)
        if not view.joined:
            for widget in (self._newcomer, self._known, self._secret_card):
                widget.hide()
        elif joined_now and self.isVisible():
            self._ask()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        self._timer.start()
        self._ask()

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        super().hideEvent(event)
        self._timer.stop()
        self._secret.clear()
        self._secret_card.hide()

    def _make_newcomer(self) -> QVBoxLayout:
        words = self._tools.words
        layout = column(self._tools.theme.unit // 2)
        self._device = label(role="muted", wrap=True)
        layout.addWidget(label(words.tr("Nobody's computer yet"), scale=TITLE, bold=True))
        layout.addWidget(self._device)
        self._name = _line(words.tr("Nickname"), words.tr("3 to 24 letters and digits"), NAME_LENGTH)
        self._claim = button(words.tr("Claim this name"), role="primary")
        self._code = _line(words.tr("Code or recovery phrase"), words.tr("of another computer of yours"), SECRET_LENGTH)
        self._link = button(words.tr("Link to that account"))
        for field, press, text in (
            (self._name, self._claim, words.tr("A new &name")),
            (self._code, self._link, words.tr("Or a &code, if you have a name on another computer")),
        ):
            title = label(text)
            title.setBuddy(field)
            layout.addWidget(title)
            line = row(self._tools.theme.unit // 2)
            line.addWidget(field, 1)
            line.addWidget(press)
            layout.addLayout(line)
            field.returnPressed.connect(press.click)
        self._claim.clicked.connect(self._send_claim)
        self._link.clicked.connect(self._send_link)
        return layout

    def _make_known(self) -> QVBoxLayout:
        words, unit = self._tools.words, self._tools.theme.unit
        layout = column(unit // 3)
        self._nickname = label(scale=TITLE, bold=True)
        self._standing = label(role="muted", wrap=True)
        self._devices = column(unit // 8)
        layout.addWidget(self._nickname)
        layout.addWidget(self._standing)
        layout.addLayout(self._devices)
        line = row(unit // 2)
        page = button(words.tr("Open my page"), role="primary")
        page.clicked.connect(lambda: self._send(NewSignIn()))
        code = button(words.tr("Link another computer"))
        code.clicked.connect(lambda: self._send(NewCode()))
        phrase = button(words.tr("New recovery phrase"))
        phrase.clicked.connect(lambda: self._send(NewPhrase()))
        for press in (page, code, phrase):
            line.addWidget(press)
        line.addStretch(1)
        layout.addLayout(line)
        layout.addWidget(
            label(
                words.tr("Teams, what the server knows of you, and being forgotten are on your page."),
                role="muted",
                wrap=True,
            )
        )
        return layout

    def _make_secret(self) -> QVBoxLayout:
        layout = column(self._tools.theme.unit // 3)
        self._secret_title = label(wrap=True)
        self._secret = label(bold=True, wrap=True)
        self._secret.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self._secret.setAccessibleName(self._tools.words.tr("Code or phrase"))
        copy = button(self._tools.words.tr("Copy"))
        copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self._secret.text()))
        line = row(self._tools.theme.unit // 2)
        line.addWidget(self._secret, 1)
        line.addWidget(copy)
        layout.addWidget(self._secret_title)
        layout.addLayout(line)
        return layout

    def _ask(self) -> None:
        if self._joined:
            self._send(GetAccount())

    def _send_claim(self) -> None:
        if name := self._name.text().strip():
            self._send(ClaimName(nickname=name))

    def _send_link(self) -> None:
        if len(secret := self._code.text().strip()) >= len("12345678"):
            self._send(LinkAccount(secret=secret))
            self._code.clear()

    def _send(self, request: GetAccount | ClaimName | LinkAccount | NewPhrase | NewCode | NewSignIn) -> None:
        self._tools.conversation.send(request, self._take)

    def _take(self, answer: BaseModel) -> None:
        words = self._tools.words
        match answer:
            case AccountIs(account=account, phrase=phrase):
                self._show(account)
                if phrase is not None:
                    told = words.tr("Your recovery phrase. Write it down: it is shown this once, and links computers.")
                    self._show_secret(told, phrase)
            case CodeIs(code=code, expires_at=until):
                told = words.tr(
                    "Type this on the other computer, under Account, within {time}.",
                    time=duration(words, until - time.time()),
                )
                self._show_secret(told, code)
            case SignInIs(url=url):
                QDesktopServices.openUrl(QUrl(url))

    def _show_secret(self, title: str, secret: str) -> None:
        self._secret_title.setText(title)
        self._secret.setText(secret)
        self._secret_card.setVisible(self._joined)

    def _show(self, account: "AccountView") -> None:
        words = self._tools.words
        self._newcomer.setVisible(self._joined and account.nickname is None)
        self._known.setVisible(self._joined and account.nickname is not None)
        self._device.setText(
            words.tr(
                "It counts as device {number} until you give it a name. Neither a password nor an e-mail is needed.",
                number=account.device,
            )
        )
        self._nickname.setText(account.nickname or "")
        self._standing.setText(standing_of(words, account))
        clear(self._devices)
        for device in account.devices:
            number, credit = device.number, amount(words, device.credit)
            text = words.tr("Device {number}: {credit} credit", number=number, credit=credit)
            if device.is_this:
                text = words.tr("This computer, device {number}: {credit} credit", number=number, credit=credit)
            self._devices.addWidget(label(text))


def standing_of(words: Words, account: "AccountView") -> str:
    """Credit, place, team."""
    told = [words.tr("{credit} credit", credit=amount(words, account.standing.credit))]
    if account.standing.rank is not None:
        told.append(words.tr("place {rank}", rank=words.number(account.standing.rank)))
    if account.team is not None:
        told.append(words.tr("in the team {team}", team=account.team.name))
    elif account.asked is not None:
        told.append(words.tr("has asked to join the team {team}", team=account.asked.name))
    if not account.listed:
        told.append(words.tr("on no board"))
    return ", ".join(told)


def _line(name: str, hint: str, length: int) -> QLineEdit:
    field = QLineEdit()
    field.setMaxLength(length)
    field.setPlaceholderText(hint)
    field.setAccessibleName(name)
    return field
