"""Reference cycles are looked for by the thread that draws, between two events, and nowhere else.

Python would do it in whatever thread makes the next object, or in the middle of a slot: there a cycle that holds a
widget takes it away from under Qt, which ends the program.
"""

import gc

from PySide6.QtCore import QObject, Qt, QTimer

PERIOD_S = 10.0


class Garbage(QObject):
    """From now on until `stop`, while the event loop of this thread runs."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._were_frozen = gc.get_freeze_count()
        self._thresholds = gc.get_threshold()
        gc.disable()
        gc.freeze()  # modules, which stay: looking through them takes as long as a frame
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.VeryCoarseTimer)
        self._timer.setInterval(int(PERIOD_S * 1000))
        self._timer.timeout.connect(self.collect)
        self._timer.start()

    def collect(self) -> None:
        """The oldest generation that is due, as Python itself would, with all younger ones."""
        due = [count > most for count, most in zip(gc.get_count(), self._thresholds, strict=True)]
        if any(due):
            gc.collect(max(generation for generation, is_due in enumerate(due) if is_due))

    def stop(self) -> None:
        self._timer.stop()
        if not self._were_frozen:
            gc.unfreeze()
        gc.enable()
