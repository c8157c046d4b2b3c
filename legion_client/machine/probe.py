"""What this machine is, found without torch: the coordinator wants to know before any engine runs."""

import contextlib
import logging
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import psutil

import legion
from legion.messages import Device, Hardware
from legion_client.machine.nvml import pynvml

logger = logging.getLogger(__name__)


def hardware(folder: Path) -> Hardware:
    """This machine now; free disk space is that of the file system that holds `folder`, which need not exist yet.

    May take seconds, as a driver that sets up its cards does.
    """
    return Hardware(
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu_count=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        free_disk_bytes=shutil.disk_usage(_existing(folder)).free,
        devices=tuple(nvidia_devices()),
        legion_version=legion.__version__,
    )


def physical_cores() -> int:
    """Cores that compute at the same time; torch gains nothing from more threads than these."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or usable, usable)


def nvidia_devices() -> list[Device]:
    """The NVIDIA GPUs that answer; none without a driver, or with one that fails."""
    if pynvml is None:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = [_device(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        logger.warning("the NVIDIA driver does not answer reason=%s", error)
        return []
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    return [device for device in found if device is not None]


def _device(nvml: Any, index: int) -> Device | None:
    """None for a card that has fallen off its bus: the others count all the same."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(handle)
        memory_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError as error:
        logger.warning("a graphics card does not answer card=%d reason=%s", index, error)
        return None
    return Device(kind="cuda", name=str(name), memory_bytes=memory_bytes)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
