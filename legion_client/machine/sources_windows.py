"""What Windows tells without a window."""

import ctypes
import sys
from collections.abc import Mapping

from legion_client.machine.idle_windows import LastInput
from legion_client.machine.network_windows import ConnectionCost
from legion_client.machine.notices_windows import SuspendNotices
from legion_client.machine.power import PsutilPower
from legion_client.machine.screen_windows import NotificationState
from legion_client.machine.sensing import Clock
from legion_client.machine.sources import Sources, Unknown


def open_sources(_environment: Mapping[str, str], _clock: Clock) -> Sources:
    if sys.platform != "win32":
        raise NotImplementedError("these libraries exist on Windows only")
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.GetTickCount.restype = ctypes.c_uint32
    kernel32.WTSGetActiveConsoleSessionId.restype = ctypes.c_uint32
    return Sources(
        idle=LastInput(ctypes.WinDLL("user32"), kernel32, ctypes.WinDLL("wtsapi32")),
        power=PsutilPower(),
        heat=Unknown(),
        metered=ConnectionCost(ctypes.WinDLL("ole32")),
        screen=NotificationState(ctypes.WinDLL("shell32")),
        game=Unknown(),
        notices=SuspendNotices(ctypes.WinDLL("powrprof")).notices,
    )
