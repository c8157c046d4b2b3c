"""What the client says of its machine."""

import logging
from pathlib import Path

import pynvml
import pytest

import legion
from legion.messages import Hardware
from legion_client.machine import probe
from legion_client.machine.probe import hardware, nvidia_devices, physical_cores
from tests.client.machine.test_gpu import Card, Nvml


def test_hardware_is_that_of_this_machine(tmp_path: Path) -> None:
    found = hardware(tmp_path / "not" / "there" / "yet")
    assert Hardware.model_validate_json(found.model_dump_json()) == found
    assert found.legion_version == legion.__version__
    assert min(found.cpu_count, found.memory_bytes, found.free_disk_bytes) > 0
    assert len(found.devices) == len(nvidia_devices())
    assert 1 <= physical_cores() <= found.cpu_count


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN])
def test_a_card_that_is_lost_is_left_out_and_the_others_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, error: int
) -> None:
    lost, other = Card(), Card("RTX 3060")
    lost.error = error
    nvml = Nvml(lost, other)
    monkeypatch.setattr(probe, "pynvml", nvml)
    with caplog.at_level(logging.WARNING):
        found = hardware(tmp_path).devices
    assert [(device.kind, device.name) for device in found] == [("cuda", "RTX 3060")]
    assert "a graphics card does not answer card=0" in caplog.text
    assert nvml.open == 0


def test_a_driver_that_stops_answering_leaves_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(Card())

    def count() -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    nvml.nvmlDeviceGetCount = count  # type: ignore[method-assign]
    monkeypatch.setattr(probe, "pynvml", nvml)
    assert nvidia_devices() == []
    assert nvml.open == 0
