"""The processor's name: as different kernels tell it, and as it is shown."""

from pathlib import Path

import pytest

from legion.train.processor import UNKNOWN, of_linux, processor_name, shortened

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model\t\t: 142
model name\t: Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz

processor\t: 1
model name\t: another
"""
PI = """processor\t: 0
BogoMIPS\t: 108.00

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
ARM_SERVER = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU part\t: 0xd0c\n"
POWER = "processor\t: 0\ncpu\t\t: POWER9, altivec supported\n"
MODEL_NUMBER_ONLY = "processor\t: 0\nmodel\t\t: 142\n"


@pytest.mark.parametrize(
    ("cpuinfo", "tree", "name"),
    [
        (X86, None, "Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz"),
        (PI, None, "BCM2835"),
        (ARM_SERVER, "Ampere Altra\0", "Ampere Altra"),
        (ARM_SERVER, None, ""),
        (POWER, None, "POWER9, altivec supported"),
        (MODEL_NUMBER_ONLY, "a board\0", "a board"),
        ("", None, ""),
    ],
)
def test_what_kernels_tell(tmp_path: Path, cpuinfo: str, tree: str | None, name: str) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    if tree is not None:
        (tmp_path / "model").write_text(tree)
    assert of_linux(tmp_path / "cpuinfo", tmp_path / "model") == name


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", "Intel Core i7-8550U"),
        ("AMD Ryzen 7 5800X 8-Core Processor             ", "AMD Ryzen 7 5800X"),
        ("Intel(R) Xeon(R) Processor @ 2.60GHz", "Intel Xeon Processor"),
        ("Apple M2\n", "Apple M2"),
        ("12th Gen Intel(R) Core(TM) i5-12400F", "12th Gen Intel Core i5-12400F"),
        ("AMD EPYC", "AMD EPYC"),
        ("", ""),
    ],
)
def test_what_is_shown(name: str, short: str) -> None:
    assert shortened(name) == short


def test_this_computers_processor_has_a_name() -> None:
    name = processor_name()
    assert name == shortened(name)
    assert name
    assert len(name) < 100 or name == UNKNOWN
