"""Hours and programs in the preferences: with the mouse, with keys alone, and by a screen reader."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QAccessible
from PySide6.QtWidgets import QApplication, QFileDialog, QPushButton
from pytestqt.qtbot import QtBot

from legion_client.settings import describe
from legion_client.ui.desktop import Desktop
from legion_client.ui.hours import WeekPicker
from legion_client.ui.programs import ProgramList, running
from tests.client.ui.conftest import Stage, until
from tests.client.ui.memory_desk import MemoryDesk

LIST = "programs.exclusive"


async def opened(desktop: Desktop, place: str) -> Any:
    desktop.raise_window()
    desktop.window.open_page(f"preferences:{place}")
    kind = WeekPicker if place.startswith("schedule") else ProgramList
    [found, *_] = [one for one in desktop.window.findChildren(kind) if one.isVisible()]
    await until(lambda: QApplication.focusWidget() is not None)
    return found


def place_of(picker: WeekPicker, day: int, at: int) -> QPoint:
    return picker.grid.visualItemRect(picker.grid.item(day, at)).center()


def test_hours_are_chosen_by_keys(stage: Stage, qtbot: QtBot) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        picker = await opened(desktop, "schedule.monday")
        await until(lambda: picker.grid.hasFocus())
        picker.grid.setCurrentCell(0, 22)
        qtbot.keyClick(picker.grid, Qt.Key.Key_Space)
        await until(lambda: "schedule.monday" in desk.values)
        assert desk.values["schedule.monday"] == ["00:00-22:00", "23:00-24:00"]
        qtbot.keyClick(picker.grid, Qt.Key.Key_Down)
        qtbot.keyClick(picker.grid, Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier)
        qtbot.keyClick(picker.grid, Qt.Key.Key_Space)
        await until(lambda: desk.values["schedule.tuesday"] != ["00:00-24:00"])
        assert desk.values["schedule.tuesday"] == ["00:00-22:00"]
        assert desk.values["schedule.monday"] == ["00:00-22:00", "23:00-24:00"]

    stage.run(play)


def test_hours_are_dragged_over(stage: Stage, qtbot: QtBot) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        picker = await opened(desktop, "schedule.monday")
        ground = picker.grid.viewport()
        qtbot.mousePress(ground, Qt.MouseButton.LeftButton, pos=place_of(picker, 1, 8))
        qtbot.mouseMove(ground, place_of(picker, 3, 16))
        qtbot.mouseRelease(ground, Qt.MouseButton.LeftButton, pos=place_of(picker, 3, 16))
        await until(lambda: "schedule.friday" in desk.values)
        assert [desk.values[f"schedule.{day}"] for day in ("monday", "tuesday", "wednesday", "thursday", "friday")] == [
            ["00:00-24:00"],
            ["00:00-08:00", "17:00-08:00"],
            ["17:00-08:00"],
            ["17:00-24:00"],
            ["00:00-24:00"],
        ]

    stage.run(play)


def test_minutes_that_stand_in_the_file_are_kept_and_told(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desk.values = {f"schedule.{day}": [] for day in ("monday", "tuesday", "wednesday")}
        desk.values["schedule.monday"] = ["22:30-07:00"]
        picker = await opened(desktop, "schedule.monday")
        cell = picker.grid.item(0, 22)
        await until(lambda: "part" in cell.data(Qt.ItemDataRole.AccessibleTextRole))
        grid = QAccessible.queryAccessibleInterface(picker.grid)
        spoken = [grid.child(number).text(QAccessible.Text.Name) for number in range(grid.childCount())]
        assert "Monday, 22 to 23: trains in part of it" in spoken
        picker.grid._toggled([(2, 12)], (2, 12))
        await until(lambda: desk.values["schedule.wednesday"])
        assert desk.values["schedule.monday"] == ["22:30-07:00"]
        assert desk.values["schedule.wednesday"] == ["12:00-13:00"]

    stage.run(play)


def test_whole_nights_are_one_button(stage: Stage, qtbot: QtBot) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        picker = await opened(desktop, "schedule.monday")
        buttons = {one.text(): one for one in picker.findChildren(QPushButton)}
        buttons["Nights and weekends"].click()
        await until(lambda: "schedule.monday" in desk.values)
        assert desk.values["schedule.monday"] == ["00:00-07:00", "22:00-07:00"]
        assert desk.values["schedule.tuesday"] == ["22:00-07:00"]
        assert desk.values["schedule.saturday"] == ["00:00-24:00"]
        buttons["None"].click()
        await until(lambda: desk.values["schedule.monday"] == [])
        resets = [one for one in desktop.window.findChildren(QPushButton) if "schedule.monday" in one.accessibleName()]
        await until(lambda: resets[0].isVisible())
        resets[0].click()
        await until(lambda: "schedule.monday" not in desk.values and "schedule.sunday" not in desk.values)

    stage.run(play)


def test_a_program_is_typed_and_removed_by_keys(stage: Stage, qtbot: QtBot) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desk.values = {LIST: ["blender"]}
        programs = await opened(desktop, LIST)
        await until(lambda: programs.programs == ["blender"])
        line = programs.name.lineEdit()
        for text in ("OBS.exe", "obs", "  "):
            line.setText(text)
            qtbot.keyClick(line, Qt.Key.Key_Return)
        await until(lambda: desk.values[LIST] == ["blender", "obs"])
        await until(lambda: programs.programs == ["blender", "obs"])
        programs.list.setCurrentRow(0)
        programs.list.setFocus()
        qtbot.keyClick(programs.list, Qt.Key.Key_Delete)
        await until(lambda: desk.values[LIST] == ["obs"])

    stage.run(play)


def test_a_program_comes_from_what_runs_and_from_a_file(stage: Stage, tmp_path: Path) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        programs = await opened(desktop, LIST)
        programs.name.showPopup()
        names = [programs.name.itemText(number) for number in range(programs.name.count())]
        programs.name.hidePopup()
        assert program_of(psutil.Process()) in names
        programs.browse.click()
        dialog = programs.findChild(QFileDialog)
        assert dialog is not None
        dialog.fileSelected.emit(str(tmp_path / "Blender.EXE"))
        dialog.reject()
        await until(lambda: desk.values.get(LIST) == ["blender"])

    stage.run(play)


def program_of(process: psutil.Process) -> str:
    return process.name().lower()


def test_what_runs_is_what_this_user_runs(tmp_path: Path) -> None:
    program = tmp_path / "Agameforpickers"
    program.symlink_to("/bin/sleep" if sys.platform != "win32" else sys.executable)
    with subprocess.Popen([program, "600"]) as game:
        while psutil.Process(game.pid).name() != "Agameforpickers"[:15]:
            assert game.poll() is None
        assert "agameforpickers"[:15] in running()
        game.kill()


def test_searching_finds_the_week_by_any_day(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        picker = await opened(desktop, "schedule.monday")
        page = desktop.window._pages["preferences"]
        page._search.setText("sunday")
        assert picker.isVisible()
        page._search.setText("celsius")
        assert not picker.isVisible()
        assert set(page._rows) == {
            name for name, one in describe().items() if one.kind != "time" and name != "modes.paused"
        }

    stage.run(play)
