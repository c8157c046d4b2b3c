"""Which computers have graphics that torch computes on and no driver tells of."""

from pathlib import Path

import pytest

from legion_client.machine.gpu_other import build_problem, other_gpus


@pytest.fixture
def pci(tmp_path: Path) -> Path:
    for place, vendor, kind in (("0000:00:02.0", "0x8086", "0x030000"), ("0000:00:1f.3", "0x8086", "0x040300")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "vendor").write_text(vendor + "\n")
        (tmp_path / place / "class").write_text(kind + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("system", "processor", "torch_version", "kinds"),
    [
        ("darwin", "arm64", "2.8.0", ["mps"]),
        ("darwin", "x86_64", "2.2.2", []),
        ("linux", "x86_64", "2.8.0+xpu", ["xpu"]),
        ("linux", "x86_64", "2.8.0+cu128", []),
        ("linux", "x86_64", "", []),
        ("win32", "AMD64", "2.8.0+xpu", ["xpu"]),
    ],
)
def test_what_torch_may_compute_on(
    pci: Path, system: str, processor: str, torch_version: str, kinds: list[str]
) -> None:
    found = other_gpus(system=system, processor=processor, torch_version=torch_version, pci=pci)
    assert [card.kind for card in found] == kinds


def test_a_build_for_intel_without_its_graphics_has_none(tmp_path: Path) -> None:
    assert other_gpus(system="linux", torch_version="2.8.0+xpu", pci=tmp_path) == ()


@pytest.mark.parametrize(
    ("torch_version", "says"),
    [("2.8.0+rocm6.4", True), ("2.8.0+rocmsdk20250801", True), ("2.8.0+cu128", False), ("2.8.0", False), ("", False)],
)
def test_a_build_for_amd_is_a_problem_that_is_said(torch_version: str, says: bool) -> None:
    problem = build_problem(torch_version)
    assert (problem is not None) is says
    assert problem is None or "ROCm" in problem
