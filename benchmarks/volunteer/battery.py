"""A laptop's battery as Linux tells of it, for programs that see these files in place of the computer's own.

In a mount namespace, which takes root: elsewhere there is none, and what needs one says so.
"""

import os
import shutil
from pathlib import Path

SUPPLIES = Path("/sys/class/power_supply")


class Battery:
    """Plugged in at first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        _write(folder / "AC", type="Mains", online="1")
        _write(
            folder / "BAT0",
            type="Battery",
            present="1",
            status="Full",
            capacity="95",
            energy_full="50000000",
            energy_now="47500000",
            power_now="10000000",
        )

    def plug(self, plugged: bool) -> None:
        _write(self._folder / "AC", online="1" if plugged else "0")
        _write(self._folder / "BAT0", status="Full" if plugged else "Discharging")

    def seen_by(self, command: list[str]) -> list[str]:
        """`command`, with these files in place of the computer's own."""
        mounted = f'mount --bind "{self._folder}" {SUPPLIES} && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mounted, "sh", *command]


def missing() -> str:
    """Why there can be none here; empty where there can."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or not SUPPLIES.is_dir():
        return "a battery takes root, unshare and Linux"
    return ""


def _write(folder: Path, **fields: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in fields.items():
        (folder / name).write_text(value + "\n")
