"""Graphics that have no driver to ask: Apple's and Intel's. Only that they are there is known, and what torch takes."""

import platform
import sys
from importlib import metadata
from pathlib import Path

from legion_client.machine.gpu import DISPLAY_CLASS, PCI, word
from legion_client.machine.readings import GpuReading

INTEL = "0x8086"
ROCM = (
    "torch is a build for AMD's cards (ROCm), and nothing tells Legion of their heat, load and memory, so they do "
    "not compute while your rules hold"
)


def other_gpus(
    *,
    system: str = sys.platform,
    processor: str | None = None,
    torch_version: str | None = None,
    pci: Path = PCI,
) -> tuple[GpuReading, ...]:
    """Those that torch may compute on, each as index 0. Nothing of torch is loaded for it."""
    if system == "darwin":
        arm = (platform.machine() if processor is None else processor) == "arm64"
        return (GpuReading(0, "Apple GPU", kind="mps"),) if arm else ()
    build = _torch_version() if torch_version is None else torch_version
    if "+xpu" not in build or (system == "linux" and not any(_is_intel(path) for path in pci.glob("*"))):
        return ()
    return (GpuReading(0, "Intel GPU", kind="xpu"),)


def build_problem(torch_version: str | None = None) -> str | None:
    """Why no card is found although torch may have one, in a sentence; None where it is a build that we know."""
    build = _torch_version() if torch_version is None else torch_version
    return f"{ROCM}." if "+rocm" in build else None


def _torch_version() -> str:
    """Of what is installed; builds for Intel's and AMD's cards say so in it."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def _is_intel(path: Path) -> bool:
    return word(path / "vendor") == INTEL and word(path / "class")[:4] == DISPLAY_CLASS
