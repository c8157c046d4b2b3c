"""What the doctor says of graphics cards: the driver is played, torch is the real one."""

import functools
from pathlib import Path

import pynvml
import pytest

from legion_client.commands import checks
from legion_client.machine import sensors
from legion_client.machine.gpu import NvidiaGpus
from legion_client.settings import change, read
from tests.client.agent.hosting import seen, without_a_run
from tests.client.machine.test_gpu import Card, Nvml


async def test_a_card_that_torch_cannot_use_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "pynvml", Nvml(Card("GeForce GTX 680")))
    driver = checks._driver()
    assert (driver.state, "GeForce GTX 680" in driver.found) == ("ok", True)
    found = await checks._graphics(driver)
    if found.state == "ok":
        pytest.skip("torch computes on a card here")
    assert found.state == "problem"
    assert "GeForce GTX 680: training cannot use it: " in found.found
    assert "Update the driver" in found.advice


async def test_without_a_card_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "pynvml", Nvml())
    monkeypatch.setattr(checks, "DEVICES", ("no-such-program",))
    driver = checks._driver()
    assert await checks._graphics(driver) is driver


async def test_every_device_has_a_line_whether_an_agent_runs_or_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lost = Card()
    lost.error = pynvml.NVML_ERROR_GPU_IS_LOST
    monkeypatch.setattr(sensors, "NvidiaGpus", functools.partial(NvidiaGpus, nvml=Nvml(Card(), Card("RTX 3060"), lost)))
    async with without_a_run(tmp_path) as (host, desk):
        change(host.home.settings, {"graphics.excluded": [1], "graphics.in_use": True, "processor.enabled": False})
        host.look_again()
        status = await seen(desk, lambda status: len(status.devices) == 4 and status.devices[1].state == "off")
    for known in (status, None):
        found = await checks._devices(read(host.home.settings), known)
        assert [(check.name, check.state) for check in found] == [
            ("card 0", "ok"),
            ("card 1", "skipped"),
            ("card 2", "problem"),
            ("processor", "skipped"),
        ]
        assert found[0].found == "RTX 4090, graphics card 0, 25.8 GB: may compute"
        assert found[1].found.endswith("You excluded graphics card 1.")
        assert found[1].advice == "graphics.excluded decides that."
        assert found[2].found.endswith("no longer answers.")


def test_a_torch_for_amds_cards_is_a_problem() -> None:
    none = checks.Check("graphics", "skipped", "no NVIDIA driver: the processor computes")
    assert checks._without_driver(none) is none
    found = checks._without_driver(none, "torch is a build for AMD's cards (ROCm).")
    assert (found.state, found.found) == ("problem", "torch is a build for AMD's cards (ROCm)")
    well = checks.Check("graphics", "ok", "driver 550")
    assert checks._without_driver(well, "torch is a build for AMD's cards (ROCm).") is well
