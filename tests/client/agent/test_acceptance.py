"""Accepted work in the activity: at once, then an hour's in a line, whatever is restarted meanwhile."""

from pathlib import Path

import pytest

from legion.ids import RunId
from legion.reports import CreditView
from legion_client.agent.acceptance import EVERY_S, KIND, Acceptance
from legion_client.agent.journal import Journal


class Played:
    """An agent's journal and clock; `again` is a restart."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_000_000.0
        self._path = folder / "happenings.jsonl"
        self.again()

    def again(self) -> None:
        self.journal = Journal(self._path, clock=lambda: self.now)
        self._acceptance = Acceptance(self.journal, clock=lambda: self.now)

    def count(self, tokens: int, run: str = "run") -> None:
        self._acceptance.count(CreditView(run_id=RunId(run), tokens=tokens, rank=None, workers=0))

    @property
    def told(self) -> list[str]:
        return [one.sentence for one in self.journal.after(0, 100) if one.kind == KIND]


@pytest.fixture
def played(tmp_path: Path) -> Played:
    return Played(tmp_path)


FIRST = "The run accepted 2,048 tokens of this computer's work; 2,048 in all."
SECOND = "The run accepted 30 tokens of this computer's work; 2,078 in all."


def test_nothing_is_no_news(played: Played) -> None:
    played.count(0)
    assert played.told == []


@pytest.mark.parametrize("restarts", [False, True])
def test_the_first_is_told_at_once_and_then_once_an_hour(played: Played, restarts: bool) -> None:
    played.count(2048)
    for tokens in (2050, 2060):
        played.now += EVERY_S / 3
        if restarts:
            played.again()
        played.count(tokens)
    assert played.told == [FIRST]
    played.now += EVERY_S / 3
    if restarts:
        played.again()
    played.count(2078)
    assert played.told == [FIRST, SECOND]
    played.now += 5 * EVERY_S
    played.count(2078)
    assert played.told == [FIRST, SECOND]


def test_another_run_counts_from_its_own_beginning(played: Played) -> None:
    played.count(100)
    played.now += EVERY_S
    played.count(5000, "next")
    assert played.told[-1] == "The run accepted 5,000 tokens of this computer's work; 5,000 in all."
    played.again()
    played.now += EVERY_S
    played.count(7, "third")
    assert played.told[-1] == "The run accepted 7 tokens of this computer's work; 7 in all."


def test_a_clock_that_was_put_back_silences_nothing(played: Played) -> None:
    played.count(100)
    played.now -= 10 * EVERY_S
    played.count(200)
    assert len(played.told) == 2


def test_a_line_of_another_version_is_no_number(played: Played) -> None:
    played.journal.add(KIND, "Work was accepted.")
    played.now += EVERY_S
    played.again()
    played.count(10)
    assert played.told[-1] == "The run accepted 10 tokens of this computer's work; 10 in all."
