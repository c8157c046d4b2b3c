"""Temperatures as kernels show them, in folders of the test."""

from pathlib import Path

import pytest

from legion_client.machine.heat import LOOK_AGAIN_S, LinuxHeat


def chip(folder: Path, number: int, name: str, *inputs: tuple[str, str]) -> Path:
    place = folder / f"hwmon{number}"
    place.mkdir(parents=True)
    (place / "name").write_text(name + "\n")
    for index, (label, value) in enumerate(inputs, start=1):
        (place / f"temp{index}_input").write_text(value + "\n")
        if label:
            (place / f"temp{index}_label").write_text(label + "\n")
    return place


@pytest.mark.parametrize(
    ("name", "inputs", "celsius"),
    [
        ("coretemp", [("Package id 0", "61000"), ("Core 0", "75000")], 61.0),
        ("k10temp", [("Tctl", "90000"), ("Tdie", "63000"), ("Tccd1", "70000")], 63.0),
        ("k10temp", [("Tctl", "58500")], 58.5),
        ("cpu_thermal", [("", "44000")], 44.0),
        ("nvme", [("Composite", "80000")], None),
        ("coretemp", [("Package id 0", "-128000")], None),
        ("coretemp", [("Package id 0", "")], None),
        ("coretemp", [], None),
    ],
)
def test_only_the_processor_counts(
    tmp_path: Path, name: str, inputs: list[tuple[str, str]], celsius: float | None
) -> None:
    chip(tmp_path, 0, name, *inputs)
    assert LinuxHeat(tmp_path, tmp_path / "zones").read() == celsius


def test_hottest_of_several_processors(tmp_path: Path) -> None:
    chip(tmp_path, 0, "acpitz", ("", "99000"))
    chip(tmp_path, 2, "coretemp", ("Package id 0", "50000"))
    chip(tmp_path, 10, "coretemp", ("Package id 1", "55000"))
    assert LinuxHeat(tmp_path, tmp_path).read() == 55.0


def test_small_boards_only_have_zones(tmp_path: Path) -> None:
    for number, (kind, value) in enumerate([("gpu-thermal", "70000"), ("cpu-thermal", "48312")]):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(kind + "\n")
        (zone / "temp").write_text(value + "\n")
    assert LinuxHeat(tmp_path / "none", tmp_path).read() == 48.312


def test_sensor_that_moves_is_found_again(tmp_path: Path) -> None:
    now = 0.0
    place = chip(tmp_path, 0, "coretemp", ("Package id 0", "50000"))
    heat = LinuxHeat(tmp_path, tmp_path, lambda: now)
    assert heat.read() == 50.0
    place.rename(tmp_path / "hwmon5")
    assert heat.read() == 50.0


def test_sensor_that_appears_late_is_found(tmp_path: Path) -> None:
    now = 0.0
    heat = LinuxHeat(tmp_path, tmp_path, lambda: now)
    assert heat.read() is None
    chip(tmp_path, 0, "k10temp", ("Tctl", "40000"))
    assert heat.read() is None
    now = LOOK_AGAIN_S
    assert heat.read() == 40.0
