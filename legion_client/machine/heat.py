"""How hot the processor is. Linux only: Windows and macOS tell nobody without a driver or an administrator."""

import time
from pathlib import Path

from legion_client.machine.sensing import Clock

HWMON = Path("/sys/class/hwmon")
ZONES = Path("/sys/class/thermal")
# Drivers that measure the processor itself; others measure disks, boards, wireless cards.
CHIPS = {"coretemp", "k10temp", "zenpower", "k8temp", "via_cputemp", "cpu_thermal", "scpi_sensors", "soc_thermal"}
ZONE_TYPES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc-thermal", "cpu0-thermal")
# Of the whole package, or the true value where another is shifted for the fans; a core's own would wake that core.
PREFERRED = ("Tdie", "Package id", "Tccd", "Tctl")
# Sensors appear late while a computer starts, and change their number when a driver is loaded anew.
LOOK_AGAIN_S = 600.0
CREDIBLE_C = (1.0, 150.0)


class LinuxHeat:
    """The hottest of the processors' sensors, in °C."""

    def __init__(self, hwmon: Path = HWMON, zones: Path = ZONES, clock: Clock = time.monotonic) -> None:
        self._hwmon = hwmon
        self._zones = zones
        self._clock = clock
        self._inputs: list[Path] = []
        self._looked: float | None = None

    def read(self) -> float | None:
        if self._looked is None or self._clock() - self._looked >= LOOK_AGAIN_S:
            self._look()
        celsius = self._hottest()
        if celsius is None and self._inputs:
            self._look()
            celsius = self._hottest()
        return celsius

    def _look(self) -> None:
        self._looked = self._clock()
        self._inputs = chip_inputs(self._hwmon) or zone_inputs(self._zones)

    def _hottest(self) -> float | None:
        values = [value for path in self._inputs if (value := _celsius(path)) is not None]
        return max(values, default=None)


def chip_inputs(folder: Path) -> list[Path]:
    """For each processor the inputs of its most telling kind, by their labels."""
    return [path for chip in sorted(folder.glob("hwmon*")) if _word(chip / "name") in CHIPS for path in _inputs(chip)]


def _inputs(chip: Path) -> list[Path]:
    inputs = sorted(chip.glob("temp*_input"))
    labels = {path: _word(path.with_name(path.name.replace("_input", "_label"))) for path in inputs}
    for kind in PREFERRED:
        if chosen := [path for path in inputs if labels[path].startswith(kind)]:
            return chosen
    return inputs


def zone_inputs(folder: Path) -> list[Path]:
    """Of small boards, whose processors have no hwmon driver."""
    return [zone / "temp" for zone in sorted(folder.glob("thermal_zone*")) if _word(zone / "type") in ZONE_TYPES]


def _celsius(path: Path) -> float | None:
    """A sensor that is broken or asleep says 0, -128 or an error."""
    try:
        value = int(_word(path)) / 1000.0
    except ValueError:
        return None
    return value if CREDIBLE_C[0] <= value <= CREDIBLE_C[1] else None


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
