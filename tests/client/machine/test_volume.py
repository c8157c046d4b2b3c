"""Traffic by month: what survives a crash, a wrong clock and a damaged file."""

import json
import logging
import os
from pathlib import Path

import pytest

from legion_client.machine.volume import MOST_MONTHS, SAVE_PERIOD_S, MonthlyVolume, Traffic


class Time:
    month = "2026-11"
    now = 0.0


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "volume.json"


def volume(path: Path, time: Time) -> MonthlyVolume:
    return MonthlyVolume(path, month=lambda: time.month, clock=lambda: time.now)


def test_counts_survive_a_restart(path: Path, time: Time) -> None:
    one = volume(path, time)
    one.add(sent_bytes=5)
    one.add(received_bytes=7, sent_bytes=1)
    one.save()
    again = volume(path, time)
    assert again.this_month == Traffic(6, 7)
    assert again.read() == 13


def test_it_is_saved_once_a_minute_and_only_if_something_changed(path: Path, time: Time) -> None:
    one = volume(path, time)
    one.add(sent_bytes=5)
    assert one.read() == 5
    assert not path.exists()
    time.now = SAVE_PERIOD_S
    assert one.read() == 5
    written = path.stat().st_mtime_ns
    time.now = 2 * SAVE_PERIOD_S
    one.read()
    assert path.stat().st_mtime_ns == written
    assert volume(path, time).read() == 5


def test_new_month_starts_at_zero_and_a_clock_set_back_finds_its_month(path: Path, time: Time) -> None:
    one = volume(path, time)
    one.add(sent_bytes=5)
    time.month = "2031-01"
    assert one.read() == 0
    one.add(sent_bytes=9)
    one.save()
    time.month = "2026-11"
    assert one.read() == 5
    assert volume(path, time).read() == 5
    time.month = "2026-12"
    assert one.read() == 0


def test_old_months_are_forgotten(path: Path, time: Time) -> None:
    one = volume(path, time)
    for year in range(2000, 2010):
        for month in range(1, 13):
            time.month = f"{year}-{month:02}"
            one.add(sent_bytes=1)
    one.save()
    assert len(json.loads(path.read_text())["months"]) == MOST_MONTHS
    assert volume(path, time).read() == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"format": 1}',
        b'{"format": 9, "months": {}}',
        b'{"format": 1, "months": {"2026-11": {"sent": -1, "received": 0}}}',
        b'{"format": 1, "months": {"2026-11": {"sent": "many", "received": 0}}}',
        b'{"format": 1, "months": {"soon": {"sent": 1, "received": 0}}}',
        b'{"format": 1, "months": [1]}',
    ],
)
def test_damaged_file_is_put_aside_and_said(
    path: Path, time: Time, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        one = volume(path, time)
    assert one.read() == 0
    assert "is damaged, counting from 0" in caplog.text
    assert path.with_suffix(".damaged").read_bytes() == content
    one.add(sent_bytes=3)
    one.save()
    assert volume(path, time).read() == 3


def test_file_that_cannot_be_written_is_said_once_and_counting_goes_on(
    tmp_path: Path, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    one = volume(tmp_path / "state" / "volume.json", time)
    caplog.clear()
    for expected in (1, 2, 3):
        one.add(sent_bytes=1)
        one.save()
        assert one.read() == expected
    assert len(caplog.records) == 1
    (tmp_path / "state").unlink()
    one.save()
    assert volume(tmp_path / "state" / "volume.json", time).read() == 3


def test_crash_while_writing_leaves_the_old_count(path: Path, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    one = volume(path, time)
    one.add(sent_bytes=1)
    one.save()

    def power_cut(_file: int) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", power_cut)
    one.add(sent_bytes=1)
    one.save()
    assert volume(path, time).read() == 1


def test_traffic_never_shrinks(path: Path, time: Time) -> None:
    with pytest.raises(ValueError, match="only grows"):
        volume(path, time).add(sent_bytes=-1)
