"""Battery or mains."""

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from legion_client.machine.sensing import Clock

SUPPLIES = Path("/sys/class/power_supply")
# On many laptops each question about the charge takes the embedded controller several milliseconds.
CHARGE_PERIOD_S = 30.0
MAINS = {"Mains", "USB", "Wireless"}


@dataclass(frozen=True, slots=True)
class Power:
    on_battery: bool | None = None
    percent: float | None = None  # 0 to 100, of all batteries together; None without one


class PsutilPower:
    """Windows, macOS, FreeBSD."""

    def read(self) -> Power | None:
        battery = psutil.sensors_battery()
        if battery is None:
            return Power(on_battery=False)
        plugged = None if battery.power_plugged is None else bool(battery.power_plugged)
        return Power(None if plugged is None else not plugged, float(battery.percent))


class LinuxPower:
    """The kernel's list of supplies. psutil does not know a mouse's battery from the computer's."""

    def __init__(self, folder: Path = SUPPLIES, clock: Clock = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._charge: float | None = None
        self._charge_read: float | None = None

    def read(self) -> Power | None:
        supplies = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        batteries = [path for path in supplies if _text(path / "type") == "Battery" and _is_ours(path)]
        if not batteries:
            return Power(on_battery=False)
        online = [_text(path / "online") for path in supplies if _text(path / "type") in MAINS]
        states = [_text(path / "status") for path in batteries]
        return Power(_on_battery(online, states), self._percent(batteries))

    def _percent(self, batteries: list[Path]) -> float | None:
        now = self._clock()
        if self._charge_read is None or now - self._charge_read >= CHARGE_PERIOD_S:
            self._charge_read = now
            charges = [value for path in batteries if (value := _number(path / "capacity")) is not None]
            self._charge = min(100.0, sum(charges) / len(charges)) if charges else None
        return self._charge


def _on_battery(online: list[str | None], states: list[str | None]) -> bool | None:
    """Some laptops show no mains, some a USB port as one that is never online, and some a wrong battery state.

    "2" is a USB supply that is fixed to one of several chargers.
    """
    if "1" in online or "2" in online:
        return False
    if "Discharging" in states:
        return True
    if "Charging" in states:
        return False
    return True if "0" in online else None


def _is_ours(path: Path) -> bool:
    """A keyboard's or a mouse's battery is of scope "Device"; most of our own say nothing."""
    return _text(path / "scope") != "Device" and _text(path / "present") != "0"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # not there, or the battery was just taken out
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
