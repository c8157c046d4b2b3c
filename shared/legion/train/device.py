"""The device a member computes on, and the precision it computes in."""

import contextlib
import sys
from collections.abc import Collection
from typing import Any

import psutil
import torch

from legion.config import ClusterConfig
from legion.messages import Device
from legion.train.processor import processor_name


def best_device(kinds: Collection[str] | None = None) -> torch.device:
    """CUDA, then MPS, then XPU, then the CPU. `kinds`: those of them that may be used beside the CPU; None: all."""
    for kind, is_available in (
        ("cuda", torch.cuda.is_available),
        ("mps", torch.backends.mps.is_available),
        ("xpu", torch.xpu.is_available),
    ):
        if (kinds is None or kind in kinds) and is_available():
            return torch.device(kind)
    return torch.device("cpu")


def card_problem(kinds: Collection[str] | None = None) -> str | None:
    """Why `best_device` finds no card; None where it does, and where it may not use any."""
    if best_device(kinds).type != "cpu" or (kinds is not None and not kinds):
        return None
    if kinds is None or "cuda" in kinds:
        return cuda_problem()
    return f"torch {torch.__version__} finds no {' or '.join(sorted(kinds)).upper()} device"


def cuda_problem() -> str | None:
    """Why CUDA cannot be used here, in torch's words: a driver too old, none, a build without it. None where it can."""
    if torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    return "no card answers"


def describe(device: torch.device) -> Device:
    """For people, and for the coordinator to judge what fits."""
    match device.type:
        case "cuda":
            cuda = torch.cuda.get_device_properties(device)
            return Device(kind="cuda", name=cuda.name, memory_bytes=cuda.total_memory)
        case "xpu":
            xpu = torch.xpu.get_device_properties(device)
            return Device(kind="xpu", name=xpu.name, memory_bytes=xpu.total_memory)
        case "mps":
            return Device(kind="mps", name=f"{processor_name()} GPU", memory_bytes=torch.mps.recommended_max_memory())
        case _:
            return Device(kind="cpu", name=processor_name(), memory_bytes=psutil.virtual_memory().total)


def card_uuid(device: torch.device) -> str | None:
    """As NVIDIA's driver names the card, whatever it is numbered here; None for what is not NVIDIA's."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products are native there, so that they gain time and not only lose bits."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported())
    return device.type == "xpu"


def autocast(config: ClusterConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 for the matrix products where configured, or where `auto` finds it native. Weights stay fp32."""
    wanted = config.precision == "bf16" or (config.precision == "auto" and multiplies_bf16(device))
    if not wanted:
        return contextlib.nullcontext()
    # Cached casts would keep a bf16 copy of every weight of the model past its unit's release.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def peak_rss_bytes() -> int:
    """The largest resident memory of this process so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # noqa: PLC0415  not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
