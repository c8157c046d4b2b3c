"""What this computer's processor is called, as its maker has it."""

import functools
import platform
import re
import subprocess
import sys
from pathlib import Path

if sys.platform == "win32":
    import winreg

CPUINFO = Path("/proc/cpuinfo")
DEVICE_TREE = Path("/proc/device-tree/model")  # of boards whose processor has no name of its own
SYSCTL_S = 2.0
UNKNOWN = "CPU"
_MARKS = re.compile(r"\((?:R|TM|C)\)", re.IGNORECASE)
_CLOCK = re.compile(r"(?: CPU)?(?: \d+-Core Processor)?(?: @ .*)?$")


@functools.cache
def processor_name() -> str:
    """Such as "AMD Ryzen 7 5800X" or "Apple M2"; "CPU" where nobody knows."""
    return shortened(_told() or platform.processor()) or UNKNOWN


def _told() -> str:
    try:
        if sys.platform == "win32":
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
                return str(winreg.QueryValueEx(key, "ProcessorNameString")[0])
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=SYSCTL_S, check=True).stdout
        return of_linux(CPUINFO, DEVICE_TREE)
    except (OSError, subprocess.SubprocessError):
        return ""


def of_linux(cpuinfo: Path, device_tree: Path) -> str:
    """As the kernel tells: x86 and some others have a name, most boards only one for the whole. Empty: neither."""
    found: dict[str, str] = {}
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), value.strip())
    named = next((found[key] for key in ("model name", "cpu model", "cpu", "hardware", "model") if found.get(key)), "")
    if named and not named.isdecimal():
        return named
    return device_tree.read_text(encoding="utf-8", errors="replace").strip("\0\n ") if device_tree.exists() else ""


def shortened(name: str) -> str:
    """Without trademarks, the clock rate, and words that say nothing."""
    return _CLOCK.sub("", " ".join(_MARKS.sub(" ", name).split())).strip()
