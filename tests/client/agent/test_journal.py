"""What happened, over restarts, power cuts and disks that take nothing."""

from itertools import count
from pathlib import Path

import pytest

from legion_client.agent.journal import Journal


def journal(folder: Path, most: int = 5) -> Journal:
    moments = count(1000)
    return Journal(folder / "activity" / "happenings.jsonl", clock=lambda: float(next(moments)), most=most)


def test_it_remembers_over_restarts(tmp_path: Path) -> None:
    first = journal(tmp_path)
    told = []
    first.on_happening = told.append
    first.add("paused", "A game runs.")
    first.add("engine-failed", "It crashed.", level="error")
    again = journal(tmp_path)
    third = again.add("resumed", "Training goes on.")
    assert [h.number for h in told] == [1, 2]
    assert [(h.number, h.level, h.sentence) for h in again.after(1, 10)] == [
        (2, "error", "It crashed."),
        (3, "info", "Training goes on."),
    ]
    assert again.after(0, 1) == [third]


@pytest.mark.parametrize("written", [1, 5, 9, 10, 11, 37])
def test_the_file_is_bounded_and_its_numbers_go_on(tmp_path: Path, written: int) -> None:
    one = journal(tmp_path)
    for number in range(written):
        one.add("round", f"{number}")
    lines = (tmp_path / "activity" / "happenings.jsonl").read_text().splitlines()
    assert len(lines) <= 10
    again = journal(tmp_path)
    kept = [h.number for h in again.after(0, 100)]
    assert kept == list(range(max(1, written - 4), written + 1))
    assert again.add("round", "next").number == written + 1


def test_half_a_line_of_a_power_cut_costs_that_line(tmp_path: Path) -> None:
    one = journal(tmp_path)
    one.add("a", "first")
    one.add("b", "second")
    path = tmp_path / "activity" / "happenings.jsonl"
    path.write_bytes(path.read_bytes()[:-20] + b"\n\xff\xfe")
    again = journal(tmp_path)
    assert [h.sentence for h in again.after(0, 10)] == ["first"]
    assert again.add("c", "third").number == 2


def test_a_disk_that_takes_nothing_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "activity").write_text("a file where the folder should be")
    one = journal(tmp_path)
    one.add("paused", "A game runs.")
    assert [h.kind for h in one.after(0, 10)] == ["paused"]
    assert "activity cannot be" in caplog.text
