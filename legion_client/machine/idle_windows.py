"""Since when nobody has touched this Windows computer."""

import ctypes
import os
from typing import Any

WRAP_MS = 1 << 32
# A touch between our two questions lies in the future for a moment; nobody is away for 49 days less a minute.
FUTURE_MS = 60_000
NO_SESSION = 0xFFFFFFFF
USER_NAME = 5  # WTS_INFO_CLASS


class LastInputInfo(ctypes.Structure):
    """LASTINPUTINFO."""

    _fields_ = [("cbSize", ctypes.c_uint32), ("dwTime", ctypes.c_uint32)]


class LastInput:
    """Of our own session, with `user32` and `kernel32`; None where there is no desktop, as for a service.

    Where another user's session has the screen, input to it is not told to us: its user counts as being there.
    """

    def __init__(self, user32: Any, kernel32: Any, wtsapi32: Any) -> None:
        self._user32 = user32
        self._kernel32 = kernel32
        self._wtsapi32 = wtsapi32

    def read(self) -> float | None:
        if self._another_has_the_screen():
            return 0.0
        info = LastInputInfo(ctypes.sizeof(LastInputInfo), 0)
        if not self._user32.GetLastInputInfo(ctypes.byref(info)):
            return None
        return passed_s(int(info.dwTime), int(self._kernel32.GetTickCount()))

    def _another_has_the_screen(self) -> bool:
        """Not a login screen, which is there for who works from afar."""
        in_front = int(self._kernel32.WTSGetActiveConsoleSessionId()) & NO_SESSION
        ours = ctypes.c_uint32()
        if not self._kernel32.ProcessIdToSessionId(os.getpid(), ctypes.byref(ours)):
            return False
        if in_front in (NO_SESSION, ours.value):
            return False
        name, size_bytes = ctypes.c_wchar_p(), ctypes.c_uint32()
        told = (ctypes.byref(name), ctypes.byref(size_bytes))
        if not self._wtsapi32.WTSQuerySessionInformationW(None, in_front, USER_NAME, *told):
            return False
        try:
            return bool(name.value)
        finally:
            self._wtsapi32.WTSFreeMemory(name)


def passed_s(touched_ms: int, now_ms: int) -> float:
    """Between two values of a counter of 32 bits, which starts anew every 49.7 days and may come as a signed number."""
    passed_ms = (now_ms - touched_ms) % WRAP_MS
    return 0.0 if passed_ms > WRAP_MS - FUTURE_MS else passed_ms / 1000.0
