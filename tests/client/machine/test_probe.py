"""What the client says of its machine."""

from pathlib import Path

import legion
from legion.messages import Hardware
from legion_client.machine.probe import hardware, nvidia_devices, physical_cores


def test_hardware_is_that_of_this_machine(tmp_path: Path) -> None:
    found = hardware(tmp_path / "not" / "there" / "yet")
    assert Hardware.model_validate_json(found.model_dump_json()) == found
    assert found.legion_version == legion.__version__
    assert min(found.cpu_count, found.memory_bytes, found.free_disk_bytes) > 0
    assert len(found.devices) == len(nvidia_devices())
    assert 1 <= physical_cores() <= found.cpu_count
