"""Supplies as kernels show them, in folders of the test."""

from pathlib import Path

import pytest

from legion_client.machine.power import CHARGE_PERIOD_S, LinuxPower, Power, PsutilPower

MAINS_ON = {"type": "Mains", "online": "1"}
MAINS_OFF = {"type": "Mains", "online": "0"}
USB_OFF = {"type": "USB", "online": "0"}
BATTERY = {"type": "Battery", "status": "Discharging", "capacity": "80", "present": "1"}


def supplies(folder: Path, **supplies: dict[str, str]) -> Path:
    for name, files in supplies.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / name / file).write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("found", "power"),
    [
        ({}, Power(on_battery=False)),
        ({"AC": MAINS_ON}, Power(on_battery=False)),
        ({"AC": MAINS_ON, "BAT0": BATTERY | {"status": "Charging"}}, Power(False, 80)),
        ({"AC": MAINS_OFF, "BAT0": BATTERY}, Power(True, 80)),
        ({"AC": MAINS_OFF, "BAT0": BATTERY | {"status": "Not charging"}}, Power(True, 80)),
        ({"AC": MAINS_ON, "usb": USB_OFF, "BAT0": BATTERY | {"status": "Full"}}, Power(False, 80)),
        ({"usb": USB_OFF, "BAT0": BATTERY | {"status": "Charging"}}, Power(False, 80)),
        ({"usb": {"type": "USB", "online": "2"}, "BAT0": BATTERY}, Power(False, 80)),
        ({"BAT0": BATTERY}, Power(True, 80)),
        ({"BAT0": BATTERY | {"status": "Unknown"}}, Power(None, 80)),
        ({"BAT0": BATTERY, "BAT1": BATTERY | {"capacity": "20"}}, Power(True, 50)),
        ({"BAT0": BATTERY | {"capacity": "full"}}, Power(True, None)),
        ({"BAT0": BATTERY | {"capacity": "104"}}, Power(True, 100)),
        ({"BAT0": BATTERY | {"present": "0"}}, Power(on_battery=False)),
        ({"hid": BATTERY | {"scope": "Device"}}, Power(on_battery=False)),  # a mouse
    ],
)
def test_linux_supplies(tmp_path: Path, found: dict[str, dict[str, str]], power: Power) -> None:
    assert LinuxPower(supplies(tmp_path / "power_supply", **found)).read() == power


def test_plug_is_seen_at_once_and_the_charge_within_half_a_minute(tmp_path: Path) -> None:
    now = 0.0
    sensor = LinuxPower(supplies(tmp_path, AC=MAINS_ON, BAT0=BATTERY | {"status": "Charging"}), lambda: now)
    assert sensor.read() == Power(False, 80)
    supplies(tmp_path, AC=MAINS_OFF, BAT0=BATTERY | {"capacity": "79"})
    now = 2.0
    assert sensor.read() == Power(True, 80)
    now = CHARGE_PERIOD_S
    assert sensor.read() == Power(True, 79)


def test_this_computer_is_read_without_an_error() -> None:
    for sensor in (LinuxPower(), PsutilPower()):
        power = sensor.read()
        assert power is not None
        assert power.percent is None or 0 <= power.percent <= 100
