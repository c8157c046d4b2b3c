"""NVIDIA's binding where a driver is to be asked; None elsewhere, where it would take memory for nothing."""

import ctypes
import sys
from types import ModuleType

LIBRARY = "libnvidia-ml.so.1"


def _binding() -> ModuleType | None:
    try:
        if sys.platform != "win32":  # where the binding itself looks in several folders
            ctypes.CDLL(LIBRARY)
        import pynvml  # noqa: PLC0415  1 MB
    except (OSError, ImportError):  # no driver; or no 'client' extra, as on a machine that only enrols
        return None
    found: ModuleType = pynvml
    return found


pynvml = _binding()
