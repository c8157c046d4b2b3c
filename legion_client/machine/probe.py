"""What this machine is, found without torch: the coordinator wants to know before any engine runs."""

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import psutil

import legion
from legion.messages import Device, Hardware
from legion_client.machine.nvml import pynvml


def hardware(folder: Path) -> Hardware:
    """This machine now; free disk space is that of the file system that holds `folder`, which need not exist yet."""
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
    """The NVIDIA GPUs the driver names; none without a driver."""
    if pynvml is None:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [
            _device(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(pynvml.nvmlDeviceGetCount())
        ]
    finally:
        pynvml.nvmlShutdown()


def _device(nvml: Any, handle: object) -> Device:
    return Device(
        kind="cuda",
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
