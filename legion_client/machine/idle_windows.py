"""Since when nobody has touched this Windows session."""

import ctypes
from typing import Any

WRAP_MS = 1 << 32
# A touch between our two questions lies in the future for a moment; nobody is away for 49 days less a minute.
FUTURE_MS = 60_000


class LastInputInfo(ctypes.Structure):
    """LASTINPUTINFO."""

    _fields_ = [("cbSize", ctypes.c_uint32), ("dwTime", ctypes.c_uint32)]


class LastInput:
    """Of our own session, with `user32` and `kernel32`; None where there is no desktop, as for a service."""

    def __init__(self, user32: Any, kernel32: Any) -> None:
        self._user32 = user32
        self._kernel32 = kernel32

    def read(self) -> float | None:
        info = LastInputInfo(ctypes.sizeof(LastInputInfo), 0)
        if not self._user32.GetLastInputInfo(ctypes.byref(info)):
            return None
        return passed_s(int(info.dwTime), int(self._kernel32.GetTickCount()))


def passed_s(touched_ms: int, now_ms: int) -> float:
    """Between two values of a counter of 32 bits, which starts anew every 49.7 days and may come as a signed number."""
    passed_ms = (now_ms - touched_ms) % WRAP_MS
    return 0.0 if passed_ms > WRAP_MS - FUTURE_MS else passed_ms / 1000.0
