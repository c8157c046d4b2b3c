"""Who has no mouse: the Tab key alone comes to every control of every page and dialog, and away from it again."""

import time

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QHeaderView,
    QLineEdit,
    QPlainTextEdit,
    QScrollBar,
    QTableWidget,
    QTextEdit,
    QWidget,
)

from legion_client.ui.desktop import Desktop
from legion_client.ui.hours import WeekPicker
from legion_client.ui.pages.graphs import GraphsPage
from legion_client.ui.window import PAGES
from legion_client.ui.wizard import Wizard
from tests.client.ui.conftest import Stage, until
from tests.client.ui.memory_desk import NEW, WAITING, MemoryDesk, with_history

CONTROLS = (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QTextEdit,
    WeekPicker,
)
MOST_STEPS = 500


def controls(window: QWidget) -> set[QWidget]:
    """What can be clicked, turned or written into, as a volunteer would count it."""
    found = set[QWidget]()
    for widget in window.findChildren(QWidget):
        is_part = isinstance(widget.parentWidget(), QAbstractSpinBox | QComboBox)
        is_part = is_part or isinstance(widget, QScrollBar | QHeaderView)
        if isinstance(widget, CONTROLS) and widget.isVisible() and widget.isEnabled() and not is_part:
            found.add(widget.grid if isinstance(widget, WeekPicker) else widget)
    return found


def walked(window: QWidget) -> set[QWidget]:
    """Where Tab leads to, until it begins again; among radio buttons the arrow keys lead on."""
    seen = set[QWidget]()
    for _ in range(MOST_STEPS):
        here = QApplication.focusWidget()
        assert here is not None
        if here in seen:
            break
        seen.add(here)
        QTest.keyClick(here, Qt.Key.Key_Tab)
    return seen


def unreached(window: QWidget) -> list[str]:
    reached = walked(window)
    groups = {widget.parentWidget() for widget in reached if isinstance(widget, QAbstractButton) and exclusive(widget)}
    return [
        f"{type(widget).__name__} {widget.accessibleName() or getattr(widget, 'text', str)()!r}"
        for widget in controls(window) - reached
        if not (isinstance(widget, QAbstractButton) and exclusive(widget) and widget.parentWidget() in groups)
    ]


def exclusive(widget: QAbstractButton) -> bool:
    return widget.autoExclusive() or (widget.group() is not None and widget.group().exclusive())


async def active(window: QWidget) -> None:
    def is_active() -> bool:
        window.activateWindow()  # again, as long as one of another test is on its way out
        return window.isActiveWindow()

    await until(is_active)


@pytest.mark.parametrize("state", ["training", "waiting", "new"])
@pytest.mark.parametrize("page", PAGES)
def test_tab_comes_to_every_control_of_a_page(stage: Stage, page: str, state: str) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desktop.window.open_page(page)
        await active(desktop.window)
        if state == "waiting":
            desk.tell(**dict(WAITING))
            await until(lambda: desktop.view.word == "Waiting")
        assert controls(desktop.window)
        assert unreached(desktop.window) == []

    stage.run(play, MemoryDesk(NEW) if state == "new" else with_history(1_800_000_000.0))


def test_tab_leaves_tables_again(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desktop.window.open_page("graphs")
        await active(desktop.window)
        page = desktop.window._pages["graphs"]
        assert isinstance(page, GraphsPage)
        await until(lambda: all(plot._series for plot in page._plots))
        for plot in page._plots:
            plot._switch.click()
        assert any(isinstance(one, QTableWidget) for one in controls(desktop.window))
        assert unreached(desktop.window) == []

    stage.run(play, with_history(time.time()))


def test_tab_comes_to_every_control_of_the_wizard(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desktop.set_up(None)
        wizard = desktop.dialog
        assert isinstance(wizard, Wizard)
        for _ in range(4):
            await active(wizard)
            assert unreached(wizard) == []
            wizard._next.click()

    stage.run(play, MemoryDesk(NEW))


def test_tab_comes_to_every_control_of_the_question_about_an_invite(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.ask_to_join(f"legion://127.0.0.1:1/?token=t&ca={'a' * 64}")
        assert desktop.dialog is not None
        await active(desktop.dialog)
        assert unreached(desktop.dialog) == []

    stage.run(play, MemoryDesk(NEW))


def test_the_walk_finds_a_control_that_is_left_out(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desktop.window.open_page("logs")
        await active(desktop.window)
        left_out = next(one for one in controls(desktop.window._pages["logs"]) if isinstance(one, QAbstractButton))
        left_out.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        assert len(unreached(desktop.window)) == 1

    stage.run(play)
