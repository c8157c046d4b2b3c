"""Windows announces sleep to a function of ours, without a window; it announces its shutdown to windows only."""

import asyncio
import ctypes
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

from legion_client.machine.network_windows import FUNCTION
from legion_client.machine.notices import Coming, Notice, SleptThrough

logger = logging.getLogger(__name__)

DEVICE_NOTIFY_CALLBACK = 2
SUSPEND, RESUME_AFTER_INPUT, RESUME = 4, 7, 18  # PBT_APM...
MEANINGS = {SUSPEND: Coming.SLEEP, RESUME: Coming.AWAKE}
# Windows waits for two seconds, then it sleeps anyway.
WITHIN_S = 1.8
CALLBACK = FUNCTION(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)


class Subscription(ctypes.Structure):
    """DEVICE_NOTIFY_SUBSCRIBE_PARAMETERS."""

    _fields_ = [("callback", CALLBACK), ("context", ctypes.c_void_p)]


class SuspendNotices:
    """With `powrprof`. Our function is called in a thread of Windows, which waits there until the receiver is ready."""

    def __init__(self, powrprof: Any, within_s: float = WITHIN_S) -> None:
        self._powrprof = powrprof
        self._within_s = within_s

    async def notices(self) -> AsyncIterator[Notice]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Notice] = asyncio.Queue()

        def called(_context: int | None, event: int, _setting: int | None) -> int:
            coming = MEANINGS.get(event)
            if coming is None:
                return 0
            ready = threading.Event()
            waits_s = self._within_s if coming is Coming.SLEEP else 0.0
            try:
                loop.call_soon_threadsafe(queue.put_nowait, Notice(coming, waits_s, ready.set))
            except RuntimeError:  # the loop is closed, the program ends
                return 0
            ready.wait(waits_s)
            return 0

        # Both must live for as long as Windows may call.
        subscription = Subscription(CALLBACK(called), None)
        handle = ctypes.c_void_p()
        error = self._powrprof.PowerRegisterSuspendResumeNotification(
            DEVICE_NOTIFY_CALLBACK, ctypes.byref(subscription), ctypes.byref(handle)
        )
        if error:
            logger.warning("sleep is not announced, it will be noticed afterwards error=%d", error)
            async for notice in SleptThrough().notices():
                yield notice
        try:
            while True:
                yield await queue.get()
        finally:
            self._powrprof.PowerUnregisterSuspendResumeNotification(handle)
