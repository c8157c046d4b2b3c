"""How far what takes long has come: what is said in each phase, and what a meter makes of a download."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_client.agent.life import Phase
from legion_client.agent.progress import QUIET_S, Going, Meter, Progress, progress

LONG = (Phase.JOINING, Phase.PREPARING, Phase.READY, Phase.DOZING, Phase.WAKING, Phase.LOADING, Phase.TRAINING)
TRAINING = Going(Phase.TRAINING, in_rounds=True, step_s=1.0)


@pytest.mark.parametrize("phase", Phase)
def test_only_what_takes_long_has_progress(phase: Phase) -> None:
    told = progress(Going(phase, transfer=Progress("1.0 of 2.0 MB", 0.5)))
    assert (told is not None) is (phase in LONG)


def test_a_transfer_is_that_of_downloads_only() -> None:
    transfer = Progress("1.0 of 2.0 MB", 0.5)
    assert progress(Going(Phase.LOADING, transfer=transfer)) == transfer
    assert progress(Going(Phase.JOINING)) is None
    assert progress(replace(TRAINING, transfer=transfer)) is None


def test_catching_up_comes_before_all_other_waits() -> None:
    assert progress(replace(TRAINING, caught_up=(3, 9), step_s=None)) == Progress(
        "catches up with the run, 3 of 9 rounds", 1 / 3
    )


@pytest.mark.parametrize(
    ("going", "phrase"),
    [
        (replace(TRAINING, step_s=None), "begins its first round"),
        (Going(Phase.TRAINING, members=2), "connects to the other computers"),
        (Going(Phase.TRAINING), "the first step is under way"),
        (replace(TRAINING, quiet_s=QUIET_S + 1), "waits until the round's contributions are combined"),
        (replace(TRAINING, step_s=60.0, quiet_s=170.0), None),
        (replace(TRAINING, in_rounds=False, quiet_s=1e6), None),
        (TRAINING, None),
    ],
)
def test_waits_of_a_member(going: Going, phrase: str | None) -> None:
    told = progress(going)
    assert (told.phrase if told else None) == phrase


@given(st.lists(st.integers(0, 10**6), max_size=50), st.integers(0, 10**6), st.integers(0, 10**6))
async def test_a_meter_tells_of_a_percent_once(sizes: list[int], before: int, offset: int) -> None:
    total, told = before + offset + sum(sizes), list[Progress]()
    meter = Meter("data", total, told.append)

    async def download(start: int) -> AsyncIterator[bytes]:
        assert start == offset
        for size in sizes:
            yield bytes(size)

    received = [len(chunk) async for chunk in meter.counting(download, before, offset + sum(sizes))(offset)]
    assert received == sizes
    shares = [one.share for one in told if one.share is not None]
    assert len(shares) == len(told) <= 102
    assert shares == sorted(shares)
    assert shares[0] == (0.0 if total else 1.0)
    if sizes and total:
        assert shares[-1] == 1.0


def test_more_than_was_announced_is_all_of_it() -> None:
    told: list[Progress] = []
    Meter("data", 10, told.append).at(11)
    assert told[-1] == Progress("0.0 of 0.0 MB of data", 1.0)
