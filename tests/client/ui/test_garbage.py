"""Cycles with widgets in them go in the thread that draws, and only between two events."""

import gc
import threading

import pytest
from PySide6.QtCore import QObject
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from legion_client.ui import garbage
from legion_client.ui.garbage import Garbage


class Knot(QLabel):
    """Holds itself; `gone_in`: the threads in which such labels were taken away."""

    def __init__(self, gone_in: list[int]) -> None:
        super().__init__()
        self.myself = self
        self._gone_in = gone_in

    def __del__(self) -> None:
        self._gone_in.append(threading.get_ident())


def cycles() -> None:
    """More than Python would bear with before it looks."""
    for _ in range(20 * gc.get_threshold()[0]):
        knot: list[object] = []
        knot.append(knot)


def test_no_other_thread_takes_widgets_away(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "PERIOD_S", 0.01)
    parent, gone_in = QObject(), list[int]()
    kept = Garbage(parent)
    try:
        Knot(gone_in)
        elsewhere = threading.Thread(target=cycles)
        elsewhere.start()
        elsewhere.join()
        cycles()
        assert gone_in == [], "nor this one in the middle of something"
        qtbot.waitUntil(lambda: gone_in == [threading.get_ident()])
    finally:
        kept.stop()
    assert gc.isenabled()


def test_what_is_not_due_is_not_looked_for(qtbot: QtBot) -> None:
    parent, gone_in = QObject(), list[int]()
    kept = Garbage(parent)
    try:
        gc.collect()
        Knot(gone_in)
        kept.collect()
        assert gone_in == []
    finally:
        kept.stop()
