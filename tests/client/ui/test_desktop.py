"""Tray, window and dialogs, from the volunteer's click to the agent's desk."""

import time
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QMessageBox, QPushButton, QSystemTrayIcon
from pytestqt.qtbot import QtBot

from legion.errors import Refused, Unusable
from legion.identity import Invite
from legion_client import autostart
from legion_client.ui import app
from legion_client.ui.desktop import Desktop
from legion_client.ui.doorbell import Doorbell
from legion_client.ui.joining import JoinDialog, fingerprint
from legion_client.ui.memory import Memory
from legion_client.ui.tray import LONGEST_HEADER, shortened
from legion_client.ui.wizard import Wizard
from tests.client.ui.conftest import Stage, until
from tests.client.ui.memory_desk import NEW, WAITING, MemoryDesk, seat_of

INVITE = str(Invite("training.example.org", 8470, "s3cret", "3f9a41c07be2d856" * 4))


def button_of(dialog: QDialog | None, text: str) -> QPushButton:
    assert dialog is not None
    return next(one for one in dialog.findChildren(QPushButton) if one.text().replace("&", "") == text)


def test_the_tray_says_what_the_agent_says(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.find_tray(True)
        assert desktop.tray.header.text() == "Training in round 13 with 37 other computers."
        assert not desktop.tray.header.isEnabled()
        assert desktop.tray.icon is not None
        assert desktop.tray.icon.toolTip().startswith("Legion: Training\n")
        before = desktop.tray.icon.icon().cacheKey()
        desk.tell(**dict(WAITING))
        await until(lambda: desktop.tray.header.text().startswith("Waiting"))
        assert desktop.tray.icon.icon().cacheKey() != before

    stage.run(play)


def test_everything_is_in_the_menu(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        texts = [action.text().replace("&", "") for action in desktop.tray.menu.actions() if action.isVisible()]
        snoozes = next(action.menu() for action in desktop.tray.menu.actions() if action.text() == "&Snooze")
        assert [text for text in texts[1:] if text] == [
            "Pause",
            "Snooze",
            "Finish this round, then pause",
            "Use the graphics card",
            "Open Legion",
            "Preferences…",
            "Quit Legion",
        ]
        assert len(snoozes.actions()) == 4

    stage.run(play)


def test_pause_snooze_resume_finish_and_graphics_reach_the_desk(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        actions = desktop.actions.of
        actions["snooze_15"].trigger()
        await until(lambda: desk.status().face == "paused")
        until_s = desk.status().reasons[0].until
        assert until_s is not None
        assert until_s == pytest.approx(time.time() + 900, abs=30)
        await until(lambda: actions["resume"].isVisible() and not actions["pause"].isVisible())
        actions["resume"].trigger()
        await until(lambda: desk.status().face == "training" and actions["pause"].isVisible())
        actions["gpu"].trigger()
        await until(lambda: desk.status().modes["gpu"].mode == "never" and not actions["gpu"].isChecked())
        actions["gpu"].trigger()
        await until(lambda: desk.status().modes["gpu"].mode == "auto" and actions["gpu"].isChecked())
        actions["finish"].trigger()
        await until(lambda: desk.status().finishing and not actions["finish"].isEnabled())
        actions["pause"].trigger()
        await until(lambda: desk.status().face == "paused")
        assert desk.status().reasons[0].until is None

    stage.run(play)


def test_the_window_is_made_only_when_it_is_wanted(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        assert desktop.application.topLevelWidgets() == [] or all(
            not widget.isVisible() for widget in desktop.application.topLevelWidgets()
        )
        desktop.actions.of["open"].trigger()
        assert desktop.window.isVisible()
        assert desktop.window.page == "home"

    stage.run(play)


def test_keys_open_pages_and_pause(stage: Stage, qtbot: QtBot) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        window = desktop.window
        window.activateWindow()
        await until(window.isActiveWindow)
        control = Qt.KeyboardModifier.ControlModifier
        pages = ("home", "run", "activity", "graphs", "account", "preferences", "logs")
        for key, page in zip("2345671", (*pages[1:], "home"), strict=True):
            qtbot.keyClick(window, key, control)
            assert window.page == page
        qtbot.keyClick(window, Qt.Key.Key_Comma, control)
        assert window.page == "preferences"
        qtbot.keyClick(window, "p", control)
        await until(lambda: desk.status().face == "paused")
        qtbot.keyClick(window, Qt.Key.Key_Escape)
        assert not window.isVisible()

    stage.run(play)


def test_closing_keeps_training_and_says_so_once(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desktop.window.close()
        assert isinstance(desktop.dialog, QMessageBox)  # no tray here
        assert desktop.dialog.text() == "Legion keeps training when you close this window. Quit stops it."
        desktop.dialog.accept()
        desktop.raise_window()
        desktop.window.close()
        assert desktop.dialog is None
        assert desk.status().face == "training"

    stage.run(play)


def test_quitting_is_asked_with_the_safe_answer_first_and_can_be_remembered(stage: Stage, qtbot: QtBot) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.actions.of["quit"].trigger()
        box = desktop.dialog
        assert isinstance(box, QMessageBox)
        assert box.defaultButton().text() == "Keep training"
        qtbot.mouseClick(button_of(box, "Keep training"), Qt.MouseButton.LeftButton)
        assert desktop.dialog is None
        desktop.actions.of["quit"].trigger()
        box = desktop.dialog
        assert isinstance(box, QMessageBox)
        box.checkBox().setChecked(True)
        qtbot.mouseClick(button_of(box, "Quit"), Qt.MouseButton.LeftButton)
        await desktop.left()

    stage.run(play)

    async def again(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.actions.of["quit"].trigger()
        await desktop.left()
        assert desktop.dialog is None

    stage.run(again)


def test_a_window_on_another_agent_goes_without_a_question(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.actions.of["quit"].trigger()
        await desktop.left()
        assert not desk.has_quit

    stage.run(play, attached=True)


def test_a_link_shows_host_and_fingerprint_before_anything_is_sent(stage: Stage, qtbot: QtBot) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.answer_door(INVITE)
        dialog = desktop.dialog
        assert isinstance(dialog, JoinDialog)
        texts = [text.text() for text in dialog.findChildren(type(dialog._server._host)) if text.isVisible()]
        assert "training.example.org:8470" in texts
        assert fingerprint("3f9a41c07be2d856" * 4) in texts
        assert button_of(dialog, "Do not join").isDefault()
        assert desk.joined_with == []
        qtbot.mouseClick(button_of(dialog, "Do not join"), Qt.MouseButton.LeftButton)
        desktop.answer_door(INVITE)
        qtbot.mouseClick(button_of(desktop.dialog, "Join"), Qt.MouseButton.LeftButton)
        await until(lambda: desk.joined_with == [INVITE])

    stage.run(play, MemoryDesk(NEW))


@pytest.mark.parametrize("text", ["legion://nowhere", "https://example.org", "legion://a:1/?token=x&ca=zz"])
def test_a_damaged_link_cannot_be_joined_and_says_why(stage: Stage, text: str) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.ask_to_join(text)
        assert not button_of(desktop.dialog, "Join").isEnabled()
        assert isinstance(desktop.dialog, JoinDialog)
        assert desktop.dialog._field._problem.isVisible()

    stage.run(play, MemoryDesk(NEW))


def test_an_invite_from_a_file(stage: Stage, tmp_path: Any) -> None:
    path = tmp_path / "invite.txt"
    path.write_text(f"Hello,\nhere is your invite:\n{INVITE}\n")

    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.ask_to_join(None)
        dialog = desktop.dialog
        assert isinstance(dialog, JoinDialog)
        dialog._field.read_file(tmp_path / "missing.txt")
        assert dialog._field._problem.text() == "missing.txt cannot be read."
        dialog._field.read_file(path)
        assert dialog.invite == INVITE

    stage.run(play, MemoryDesk(NEW))


def test_the_wizard_comes_once_and_sends_what_was_chosen(stage: Stage, qtbot: QtBot) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desk.tell(name="new")
        await until(lambda: isinstance(desktop.dialog, Wizard))
        wizard = desktop.dialog
        assert isinstance(wizard, Wizard)
        height = wizard.height()
        wizard._what.field.set_text(INVITE)
        desktop.application.processEvents()
        assert wizard.height() == height  # what the invite shows has room already
        for _ in range(3):
            qtbot.mouseClick(wizard._next, Qt.MouseButton.LeftButton)
        assert wizard._next.text() == "&Start training"
        qtbot.mouseClick(wizard._next, Qt.MouseButton.LeftButton)
        await until(lambda: desk.joined_with == [INVITE])
        assert desk.values["power.pause_on_battery"] is True
        assert desk.values["graphics.in_use"] is False
        assert "account.nickname" not in desk.values  # never the name of the user or the computer
        assert autostart.is_on()
        assert Memory(stage.home.root / "state" / "window.json").now.wizard_done

    stage.run(play, MemoryDesk(NEW), wizard_done=False)


def test_skipping_every_page_of_the_wizard_changes_nothing(stage: Stage, qtbot: QtBot) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.set_up(INVITE)
        wizard = desktop.dialog
        assert isinstance(wizard, Wizard)
        for _ in range(3):
            qtbot.mouseClick(wizard._skip, Qt.MouseButton.LeftButton)
        assert wizard._next.text() == "&Finish"  # without an invite nothing starts
        qtbot.mouseClick(wizard._skip, Qt.MouseButton.LeftButton)
        assert wizard.outcome == ({}, None, None)
        assert desk.values == {}
        assert desk.joined_with == []
        assert not autostart.is_on()

    stage.run(play, MemoryDesk(NEW))


def test_what_the_agent_refuses_stands_in_the_window(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()

        async def refuse(until: float | None) -> None:
            raise Unusable("it cannot be paused", hint="Wait.")

        desk.pause = refuse  # type: ignore[method-assign]
        desktop.actions.of["pause"].trigger()
        notice = desktop.window._notice
        await until(notice.isVisible)
        assert notice._text.text() == "it cannot be paused Wait."

    stage.run(play)


def test_without_a_window_the_doorbell_is_refused() -> None:
    with pytest.raises(Refused, match="no window"):
        Doorbell().ring(None)


def test_a_headline_that_is_long_is_cut_in_the_menu() -> None:
    assert shortened("x" * LONGEST_HEADER) == "x" * LONGEST_HEADER
    assert len(shortened("word " * 40)) <= LONGEST_HEADER


def test_run_ends_with_the_conversation(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole program: tray or window first, then the agent; quitting leaves the agent's context."""
    monkeypatch.setattr(QSystemTrayIcon, "isSystemTrayAvailable", staticmethod(lambda: False))
    desk, doorbell = MemoryDesk(), Doorbell()
    ends: list[str] = []

    class Seat:
        async def __aenter__(self) -> Any:
            self._inner = seat_of(desk)
            return await self._inner.__aenter__()

        async def __aexit__(self, *error: Any) -> None:
            await self._inner.__aexit__(*error)
            ends.append("left")

    original = Desktop.find_tray

    def find_and_quit(desktop: Desktop, available: bool) -> None:
        original(desktop, available)
        desktop.conversation.status_changed.connect(lambda _: desktop.leave())

    monkeypatch.setattr(Desktop, "find_tray", find_and_quit)
    assert app.run(stage.home, Seat, background=True, doorbell=doorbell) == 0
    assert ends == ["left"]


def test_seconds_pass_in_the_window_only_while_something_is_under_way(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desktop._seconds.setInterval(1)
        desk.tell(face="syncing", progress="opens the data", progress_share=None)
        await until(lambda: desktop.view.progress == "Opens the data")
        desktop._told = ("opens the data", time.time() - 60)
        await until(lambda: desktop.view.progress.startswith("Opens the data (6"))
        desk.tell(face="training", progress="")
        await until(lambda: not desktop._seconds.isActive())

    stage.run(play)
