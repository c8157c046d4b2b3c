"""What covers the screen, as Windows decides whether to show notifications."""

import ctypes
from typing import Any

from legion_client.machine.screen import ScreenUse

# QUERY_USER_NOTIFICATION_STATE
NOT_PRESENT, BUSY, DIRECT3D_FULL_SCREEN, PRESENTATION, ACCEPTS, QUIET_TIME, STORE_APP = range(1, 8)
USES = {
    NOT_PRESENT: ScreenUse(full_screen=False, game=False),
    BUSY: ScreenUse(full_screen=True, game=None),
    DIRECT3D_FULL_SCREEN: ScreenUse(full_screen=True, game=True),
    PRESENTATION: ScreenUse(full_screen=True, game=False),
    ACCEPTS: ScreenUse(full_screen=False, game=None),
    QUIET_TIME: ScreenUse(full_screen=False, game=None),
    STORE_APP: ScreenUse(full_screen=True, game=None),
}


class NotificationState:
    """With `shell32`. A game in a window without a frame counts as "busy": it covers the screen, more is not known."""

    def __init__(self, shell32: Any) -> None:
        self._shell32 = shell32

    def read(self) -> ScreenUse | None:
        state = ctypes.c_int(0)
        if self._shell32.SHQueryUserNotificationState(ctypes.byref(state)) < 0:
            return None
        return USES.get(state.value)
