"""What macOS tells without a run loop: no full screen, no metered networks, and sleep only afterwards."""

import ctypes
from collections.abc import Mapping

from legion_client.machine.idle_macos import LastEvent
from legion_client.machine.notices import SleptThrough
from legion_client.machine.power import PsutilPower
from legion_client.machine.sensing import Clock
from legion_client.machine.sources import Sources, Unknown

APPLICATION_SERVICES = "/System/Library/Frameworks/ApplicationServices.framework/ApplicationServices"


def open_sources(_environment: Mapping[str, str], _clock: Clock) -> Sources:
    framework = ctypes.CDLL(APPLICATION_SERVICES)
    framework.CGEventSourceSecondsSinceLastEventType.argtypes = (ctypes.c_int32, ctypes.c_uint32)
    framework.CGEventSourceSecondsSinceLastEventType.restype = ctypes.c_double
    return Sources(
        idle=LastEvent(framework),
        power=PsutilPower(),
        heat=Unknown(),
        metered=Unknown(),
        screen=Unknown(),
        game=Unknown(),
        notices=SleptThrough().notices,
    )
