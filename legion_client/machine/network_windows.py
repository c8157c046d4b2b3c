"""Whether the connection costs by volume, as Windows was told or knows of a mobile network (INetworkCostManager)."""

import ctypes
import uuid
from typing import Any

NETWORK_LIST_MANAGER = uuid.UUID("DCB00C01-570F-4A9B-8D69-199FDBA5723B").bytes_le
NETWORK_COST_MANAGER = uuid.UUID("DCB00008-570F-4A9B-8D69-199FDBA5723B").bytes_le
CLSCTX_ALL = 23
RELEASE, GET_COST = 2, 3  # places in the interface's table of functions
# NLM_CONNECTION_COST
UNRESTRICTED, FIXED, VARIABLE, OVER_LIMIT, ROAMING = 0x1, 0x2, 0x4, 0x10000, 0x40000
# The same as C's calling convention but on 32-bit Windows.
FUNCTION = getattr(ctypes, "WINFUNCTYPE", ctypes.CFUNCTYPE)


class ConnectionCost:
    """With `ole32`. Each reading comes in a new thread, for which COM is set up and taken down again."""

    def __init__(self, ole32: Any) -> None:
        self._ole32 = ole32

    def read(self) -> bool | None:
        if self._ole32.CoInitializeEx(None, 0) < 0:
            return None
        try:
            cost = self._cost()
        finally:
            self._ole32.CoUninitialize()
        return None if cost is None else metered(cost)

    def _cost(self) -> int | None:
        this = ctypes.c_void_p()
        made = self._ole32.CoCreateInstance(
            NETWORK_LIST_MANAGER, None, CLSCTX_ALL, NETWORK_COST_MANAGER, ctypes.byref(this)
        )
        if made < 0 or not this.value:
            return None
        functions = ctypes.cast(this, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
        get_cost = FUNCTION(ctypes.c_long, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.c_void_p)
        release = FUNCTION(ctypes.c_uint32, ctypes.c_void_p)
        cost = ctypes.c_uint32(0)
        try:
            answer = get_cost(functions[GET_COST])(this, ctypes.byref(cost), None)
        finally:
            release(functions[RELEASE])(this)
        return None if answer < 0 else cost.value


def metered(cost: int) -> bool | None:
    if cost & (FIXED | VARIABLE | OVER_LIMIT | ROAMING):
        return True
    return False if cost & UNRESTRICTED else None
