"""Real files of the test."""

import os
import shutil
from itertools import count
from pathlib import Path

from legion_client.machine.disk import ENTRIES_A_LOOK, REST_S, SLICE_S, Disk, sizes


def test_size_of_a_folder_is_what_its_files_take_up(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(os.urandom(100_000))
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "link").symlink_to("/usr")
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10**9)
    total = sum(sizes(tmp_path))
    assert 100_000 <= total <= 120_000
    assert sum(sizes(tmp_path / "missing")) == 0


def test_free_and_total_are_those_of_the_file_system_also_before_the_folder_exists(tmp_path: Path) -> None:
    space = Disk(tmp_path / "not" / "yet").read()
    assert space is not None
    assert space.total_bytes == shutil.disk_usage(tmp_path).total
    assert 0 < space.free_bytes <= space.total_bytes
    assert space.used_bytes == 0


def test_large_folder_is_counted_in_slices_and_then_rests(tmp_path: Path) -> None:
    for number in range(3 * ENTRIES_A_LOOK + 1):
        (tmp_path / str(number)).write_bytes(b"x" * 4096)
    ticks = count()
    disk = Disk(tmp_path, clock=lambda: next(ticks) * 2 * SLICE_S)  # each look at the clock finds a slice used up
    found = [space.used_bytes for _ in range(4) if (space := disk.read())]
    assert found[:3] == [None, None, None]
    assert found[3] == sum(sizes(tmp_path))
    (tmp_path / "more").write_bytes(b"x" * 8192)
    again = disk.read()
    assert again is not None
    assert again.used_bytes == found[3]


def test_count_is_renewed_after_its_rest(tmp_path: Path) -> None:
    now = 0.0
    disk = Disk(tmp_path, clock=lambda: now)
    assert disk.read()
    (tmp_path / "new").write_bytes(os.urandom(50_000))
    now = REST_S
    space = disk.read()
    assert space is not None
    assert space.used_bytes is not None
    assert space.used_bytes >= 50_000
