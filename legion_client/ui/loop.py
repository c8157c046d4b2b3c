"""qasync's event loop, in which a timer that was cancelled does not wake the processor when it would have been due.

Most timers are time limits, and those are nearly always cancelled.
"""

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import Any

import qasync
from PySide6.QtCore import QObject, Qt, QTimerEvent


class Loop(qasync.QEventLoop):  # type: ignore[misc]  # qasync has no types
    """For one application, as qasync's."""

    def __init__(self, application: QObject) -> None:
        self._later = Timers()
        super().__init__(application)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """`call_at` and `call_soon` come here too."""
        if delay <= 0:
            soon: asyncio.Handle = super().call_later(delay, callback, *args, context=context)
            return soon
        return self._later.start(Timer(self.time() + delay, callback, args, self, context), delay)

    @property
    def timers(self) -> int:
        """How many are still to come."""
        return len(self._later)

    def close(self) -> None:
        self._later.stop()
        super().close()


class Timer(asyncio.TimerHandle):
    """Cancelled, it is Qt's no longer."""

    end: Callable[[], object]

    def cancel(self) -> None:
        super().cancel()
        self.end()


class Timers(QObject):
    """Those that are still to come."""

    def __init__(self) -> None:
        super().__init__()
        self._timers: dict[int, Timer] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def start(self, timer: Timer, delay_s: float) -> Timer:
        # Not coarse: those come up to 5 % early, and what waits for a moment would look before it.
        number = self.startTimer(math.ceil(delay_s * 1000) + 1, Qt.TimerType.PreciseTimer)
        self._timers[number] = timer
        timer.end = lambda: self._end(number)
        return timer

    def stop(self) -> None:
        for number in list(self._timers):
            self._end(number)

    def timerEvent(self, event: QTimerEvent) -> None:  # noqa: N802
        timer = self._end(event.timerId())
        if timer is not None:
            timer._run()

    def _end(self, number: int) -> Timer | None:
        timer = self._timers.pop(number, None)
        if timer is not None:
            self.killTimer(number)
        return timer
