"""Every page: its content, its words in another language, names for who cannot see, and room for longer texts."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from PySide6.QtCore import QCoreApplication
from PySide6.QtGui import QAccessible, QAccessibleInterface, QGuiApplication
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QPushButton,
    QScrollArea,
    QTableWidget,
    QWidget,
)
from pytestqt.qtbot import QtBot

from legion_client.settings import describe
from legion_client.ui import report
from legion_client.ui.desktop import Desktop
from legion_client.ui.language import PseudoTranslator, QtWords, stretched
from legion_client.ui.pages.activity import ActivityPage
from legion_client.ui.pages.graphs import GraphsPage
from legion_client.ui.pages.home import HomePage
from legion_client.ui.pages.logs import LogsPage
from legion_client.ui.pages.preferences import PreferencesPage
from legion_client.ui.plots import Plot
from legion_client.ui.window import PAGES
from legion_client.ui.wizard import Wizard
from tests.client.ui.conftest import Stage, until
from tests.client.ui.memory_desk import NEW, WAITING, MemoryDesk, with_history

ROLE = QAccessible.Role
CONTROLS = {
    ROLE.PushButton, ROLE.CheckBox, ROLE.RadioButton, ROLE.ComboBox, ROLE.EditableText, ROLE.SpinBox, ROLE.Slider,
    ROLE.List, ROLE.ListItem, ROLE.Table, ROLE.ProgressBar, ROLE.MenuItem, ROLE.Button, ROLE.ButtonMenu,
    ROLE.ButtonDropDown,
}  # fmt: skip


def interfaces(found: QAccessibleInterface) -> Iterator[QAccessibleInterface]:
    yield found
    for number in range(found.childCount()):
        child = found.child(number)
        if child is not None and child.isValid():
            yield from interfaces(child)


def unnamed(widget: QWidget) -> list[str]:
    """Controls that a screen reader could not name; those that cannot be seen are left out."""
    nameless = []
    for one in interfaces(QAccessible.queryAccessibleInterface(widget)):
        inner = one.object()
        is_part = isinstance(inner, QWidget) and isinstance(inner.parentWidget(), QDoubleSpinBox | QComboBox)
        counts = one.role() in CONTROLS and not one.state().invisible and not is_part
        if counts and not one.text(QAccessible.Text.Name).strip():
            nameless.append(f"{one.role()} {inner}")
    return nameless


def clipped(window: QWidget) -> list[str]:
    """Texts with less room than they need."""
    found = []
    for widget in window.findChildren(QWidget):
        if not widget.isVisible():
            continue
        if isinstance(widget, QLabel) and widget.text():
            if widget.wordWrap():
                needs = widget.heightForWidth(widget.width())
                if needs > widget.height():
                    found.append(f"{widget.text()!r} needs a height of {needs}, has {widget.height()}")
            elif widget.sizeHint().width() > widget.width():
                found.append(f"{widget.text()!r} needs {widget.sizeHint().width()}, has {widget.width()}")
        elif isinstance(widget, QAbstractButton) and widget.text():
            wanted = widget.sizeHint()
            if wanted.width() > widget.width() or wanted.height() > widget.height() + 1:
                found.append(f"{widget.text()!r} needs {wanted}, has {widget.size()}")
    return found


@pytest.fixture
def pseudo(qapp: QApplication) -> Iterator[PseudoTranslator]:
    translator = PseudoTranslator()
    assert QCoreApplication.installTranslator(translator)
    yield translator
    QCoreApplication.removeTranslator(translator)


async def opened(desktop: Desktop, page: str, width: int = 900, height: int = 620) -> QWidget:
    desktop.raise_window()
    desktop.window.resize(width, height)
    desktop.window.open_page(page)
    for _ in range(20):
        await asyncio.sleep(0)
    return desktop.window


@pytest.mark.parametrize("page", PAGES)
def test_every_control_has_a_name(stage: Stage, page: str) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desk.tell(**dict(WAITING))
        assert unnamed(await opened(desktop, page)) == []

    stage.run(play)


def test_the_walk_finds_what_has_no_name(qtbot: QtBot) -> None:
    nameless = QPushButton()
    qtbot.addWidget(nameless)
    nameless.show()
    assert len(unnamed(nameless)) == 1


def test_every_control_of_the_dialogs_has_a_name(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.set_up(None)
        wizard = desktop.dialog
        assert isinstance(wizard, Wizard)
        for _ in range(4):
            assert unnamed(wizard) == []
            wizard._leave_page(skipped=True)
        desktop.ask_to_join(None)
        assert desktop.dialog is not None
        assert unnamed(desktop.dialog) == []
        desktop.ask_to_quit()
        assert unnamed(desktop.dialog) == []

    stage.run(play)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("size", [(900, 620), (800, 500)])
def test_longer_words_have_room(stage: Stage, pseudo: PseudoTranslator, page: str, size: tuple[int, int]) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        assert clipped(await opened(desktop, page, *size)) == []

    stage.run(play)


@pytest.mark.parametrize("page", PAGES)
def test_every_text_of_a_page_is_translated(stage: Stage, pseudo: PseudoTranslator, page: str) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        window = await opened(desktop, page)
        names = set(describe())
        plain = [
            widget.text()
            for widget in window.findChildren(QWidget)
            if isinstance(widget, QLabel | QAbstractButton)
            and widget.isVisible()
            and any(map(str.isalpha, widget.text()))
            if "[" not in widget.text() and widget.text() not in names and not is_data(widget.text())
        ]
        assert plain == []

    stage.run(play)


def has_words(text: str) -> bool:
    return any(map(str.isalpha, text))


def is_data(text: str) -> bool:
    """What the agent tells, and figures with their units."""
    told = ("Training in round", "Waiting:", "NVIDIA", "AMD", "The lighthouse")
    return text.startswith(told) or text.split(" ")[-1] in ("GB", "M", "G", "°C", "W", "kB/s", "B/s", "MB/s", "%")


def test_the_wizard_has_room_for_longer_words(stage: Stage, pseudo: PseudoTranslator) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.set_up(None)
        wizard = desktop.dialog
        assert isinstance(wizard, Wizard)
        for _ in range(4):
            for _ in range(20):
                await asyncio.sleep(0)
            assert clipped(wizard) == []
            wizard._leave_page(skipped=True)

    stage.run(play)


def test_home_fits_a_small_window(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desk.tell(**dict(WAITING))
        await until(lambda: desktop.view.face == "waiting")
        window = await opened(desktop, "home", 800, 500)
        assert (window.width(), window.height()) == (800, 500)
        home = desktop.window._pages["home"]
        assert isinstance(home, HomePage)
        assert home.scrolled.verticalScrollBar().maximum() == 0
        assert clipped(window) == []

    stage.run(play)


def test_who_has_not_joined_is_told_how(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        window = await opened(desktop, "home")
        shown = [label.text() for label in window.findChildren(QLabel) if label.isVisible()]
        assert any("invite" in text for text in shown)
        buttons = [one.text() for one in window.findChildren(QPushButton) if one.isVisible()]
        assert buttons == ["Join with an invite…"]
        window = await opened(desktop, "run")
        shown = [label.text() for label in window.findChildren(QLabel) if label.isVisible()]
        assert shown == ["This computer takes part in no run yet. Join one with an invite."]

    stage.run(play, MemoryDesk(NEW))


def test_a_reason_leads_to_its_setting(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desk.tell(reasons=(WAITING.reasons[0].model_copy(update={"setting": "programs.pause_full_screen"}),))
        await until(lambda: desktop.view.reasons)
        window = await opened(desktop, "home")
        link = next(one for one in window.findChildren(QPushButton) if one.text() == "Change this setting")
        assert link.accessibleName() == "Change the setting programs.pause_full_screen"
        window.activateWindow()
        link.click()
        assert desktop.window.page == "preferences"
        page = desktop.window._pages["preferences"]
        assert isinstance(page, PreferencesPage)
        wanted = page._rows["programs.pause_full_screen"].focus
        await until(wanted.hasFocus)
        assert not wanted.visibleRegion().isEmpty()

    stage.run(play)


def test_when_a_reason_ends_is_said_without_saying_it_twice(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        first = WAITING.reasons[0].model_copy(update={"until": time.time() + 60})
        desk.tell(**dict(WAITING.model_copy(update={"reasons": (first,)})))
        await until(lambda: desktop.view.reasons)
        window = await opened(desktop, "home")
        shown = [label.text() for label in window.findChildren(QLabel) if label.isVisible()]
        assert sum(first.sentence in text for text in shown) == 1
        assert any(text.startswith("Until ") for text in shown)

    stage.run(play)


def test_preferences_search_and_change(stage: Stage, qtbot: QtBot) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        await opened(desktop, "preferences")
        page = desktop.window._pages["preferences"]
        assert isinstance(page, PreferencesPage)
        page._search.setText("battery")
        shown = {name for name, made in page._rows.items() if made.whole.isVisible()}
        assert "power.pause_on_battery" in shown
        assert shown == {name for name in page._rows if describe()[name].matches("battery")}
        switch = page._rows["power.pause_on_battery"].focus
        await until(lambda: switch.isChecked())  # type: ignore[attr-defined]
        switch.click()  # type: ignore[attr-defined]
        await until(lambda: desk.values == {"power.pause_on_battery": False})
        reset = page._rows["power.pause_on_battery"].reset
        await until(reset.isVisible)
        reset.click()
        await until(lambda: desk.values == {} and not reset.isVisible())
        page._search.setText("no such thing")
        assert page._nothing.isVisible()

    stage.run(play)


def test_numbers_and_lists_are_sent_as_they_are_meant(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        await opened(desktop, "preferences")
        page = desktop.window._pages["preferences"]
        assert isinstance(page, PreferencesPage)
        minutes = page._rows["idle.minutes"].focus
        assert isinstance(minutes, QDoubleSpinBox)
        await until(lambda: minutes.value() == 3)
        minutes.setValue(7)
        await until(lambda: desk.values.get("idle.minutes") == 7)
        assert isinstance(desk.values["idle.minutes"], int)
        line = page._rows["graphics.excluded"].focus
        line.setText("0, 2")  # type: ignore[attr-defined]
        line.setModified(True)  # type: ignore[attr-defined]
        line.editingFinished.emit()  # type: ignore[attr-defined]
        await until(lambda: desk.values.get("graphics.excluded") == [0, 2])

    stage.run(play)


def test_activity_shows_the_past_and_what_comes(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        await opened(desktop, "activity")
        page = desktop.window._pages["activity"]
        assert isinstance(page, ActivityPage)
        await until(lambda: page._table.rowCount() == 8)
        desk.happen("Something went wrong.", level="error")
        await until(lambda: page._table.rowCount() == 9)
        assert page._table.item(0, 1).text() == "Something went wrong."
        page._only_trouble.setChecked(True)
        assert page._table.rowCount() == 4

    stage.run(play)


def test_graphs_ask_only_while_they_are_seen_and_have_tables(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        await opened(desktop, "graphs")
        page = desktop.window._pages["graphs"]
        assert isinstance(page, GraphsPage)
        await until(lambda: all(plot._series for plot in page._plots))
        plot = page._plots[3]
        plot._switch.click()
        table = plot.findChild(QTableWidget)
        assert table.isVisible()
        assert table.item(0, 1).text().endswith("°C")
        assert page._timer.isActive()
        desktop.window.open_page("home")
        assert not page._timer.isActive()

    stage.run(play, with_history(time.time()))


@pytest.mark.parametrize("size", [(480, 320), (740, 500), (1200, 800)])
def test_graphs_fit_the_window(stage: Stage, size: tuple[int, int]) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        window = await opened(desktop, "graphs")
        window.resize(size[0], size[1])
        plots = window._pages["graphs"].findChildren(Plot)
        (area,) = window._pages["graphs"].findChildren(QScrollArea)
        await until(lambda: area.widget().width() <= area.viewport().width())
        assert len({plot.width() for plot in plots}) == 1

    stage.run(play, with_history(time.time()))


def test_graphs_without_a_measurement_say_so(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        window = await opened(desktop, "graphs")
        shown = [label.text() for label in window.findChildren(QLabel) if label.isVisible()]
        assert shown.count("Nothing has been measured yet.") == 6

    stage.run(play, MemoryDesk())


def test_logs_are_filtered_and_copied_without_private_things(stage: Stage) -> None:
    log = stage.home.engine_log
    log.parent.mkdir(parents=True)
    log.write_text("09:00:00 INFO    x joined attic at 192.168.0.7\n09:00:01 ERROR   x failed\n")

    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        await opened(desktop, "logs")
        page = desktop.window._pages["logs"]
        assert isinstance(page, LogsPage)
        assert page._text.toPlainText().count("\n") == 1
        page._level.setCurrentIndex(report.LEVELS.index("error"))
        assert page._text.toPlainText() == "09:00:01 ERROR   x failed"
        page._copy.click()
        copied = QGuiApplication.clipboard().text()
        assert "joined <name> at <address>" in copied
        assert "192.168" not in copied

    stage.run(play)


def test_plurals_and_pseudo_translation(pseudo: PseudoTranslator) -> None:
    words = QtWords()
    assert words.tr("Home") == stretched("Home") == "[Home~]"
    assert len(stretched("A longer text of some words")) >= 1.4 * len("A longer text of some words")
    assert words.count(3, "{n} round", "{n} rounds").startswith("[3 rounds")


def test_english_plurals_need_no_translation(qapp: QApplication) -> None:
    words = QtWords()
    assert words.count(1, "{n} round", "{n} rounds") == "1 round"
    assert words.count(2, "{n} round", "{n} rounds") == "2 rounds"


def test_themes_change_at_once(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        window = await opened(desktop, "home")
        light = window.grab().toImage().pixelColor(5, 300)
        desktop.window._choose_theme("dark")
        assert desktop.application.palette().window().color().name() == desktop.theme.colors.window
        dark = window.grab().toImage().pixelColor(5, 300)
        assert light.lightness() > 200 > 60 > dark.lightness()
        assert desktop.memory.now.theme == "dark"

    stage.run(play)
