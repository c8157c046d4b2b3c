"""The account page: a name for a computer that is nobody's, codes, phrases, and the page at the server."""

import pytest
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QLabel, QLineEdit, QPushButton, QWidget

from legion_client.ui.desktop import Desktop
from legion_client.ui.pages.account import AccountPage, standing_of
from legion_client.ui.words import English
from tests.client.ui.conftest import Stage, until
from tests.client.ui.memory_desk import CODE, NEW, PHRASE, MemoryDesk, account_of


def page_of(desktop: Desktop) -> AccountPage:
    desktop.raise_window()
    desktop.window.open_page("account")
    (page,) = desktop.window.findChildren(AccountPage)
    return page


def shown(page: QWidget) -> list[str]:
    return [text.text() for text in page.findChildren(QLabel) if text.isVisible()]


def pressed(page: QWidget, text: str) -> None:
    (found,) = [one for one in page.findChildren(QPushButton) if one.text() == text]
    assert found.isVisible()
    found.click()


def typed(page: QWidget, name: str, text: str) -> None:
    (field,) = [one for one in page.findChildren(QLineEdit) if one.accessibleName() == name]
    field.setText(text)


def test_a_name_is_claimed_and_the_phrase_is_shown_once(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        page = page_of(desktop)
        await until(lambda: "Nobody's computer yet" in shown(page))
        typed(page, "Nickname", " Ada ")
        pressed(page, "Claim this name")
        await until(lambda: PHRASE in shown(page))
        assert desk.kept_account.nickname == "Ada"
        told = {"Ada", "This computer, device 41: 12,000 credit", "Device 52: 346 credit"}
        await until(lambda: told <= set(shown(page)))
        desktop.window.open_page("home")
        desktop.window.open_page("account")
        assert PHRASE not in shown(page)

    stage.run(play)


def test_a_computer_is_linked_by_a_code(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        page = page_of(desktop)
        await until(lambda: "Nobody's computer yet" in shown(page))
        typed(page, "Code or recovery phrase", "00000000")
        pressed(page, "Link to that account")
        await until(lambda: any("nobody has this code" in text for text in shown(desktop.window)))
        typed(page, "Code or recovery phrase", CODE)
        pressed(page, "Link to that account")
        await until(lambda: "Ada" in shown(page))

    stage.run(play)


def test_a_code_for_another_computer_and_the_own_page(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toString()))

    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desk.kept_account = account_of("Ada")
        page = page_of(desktop)
        await until(lambda: "Ada" in shown(page))
        pressed(page, "Link another computer")
        await until(lambda: CODE in shown(page))
        pressed(page, "New recovery phrase")
        await until(lambda: PHRASE in shown(page))
        pressed(page, "Open my page")
        await until(lambda: opened == ["https://training.example.org:8470/sign-in/once"])

    stage.run(play)


def test_without_a_server_there_is_nothing_to_claim(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        page = page_of(desktop)
        await until(lambda: any("takes part in no run yet" in text for text in shown(page)))
        assert not any(one.isVisible() for one in page.findChildren(QPushButton))

    stage.run(play, MemoryDesk(NEW))


def test_the_standing_in_words() -> None:
    assert standing_of(English(), account_of("Ada")) == "12,346 credit, place 7, in the team Attic 7"
    hidden = account_of("Ada").model_copy(update={"listed": False, "asked": account_of("Ada").team, "team": None})
    told = standing_of(English(), hidden)
    assert told == "12,346 credit, place 7, has asked to join the team Attic 7, on no board"
