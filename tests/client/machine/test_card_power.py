"""A card's power limit: lowered where that is allowed, and put back whatever becomes of who lowered it."""

import logging
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_client.machine.card_power import DriverFailed, Lowered, Move, Note, PowerLimit, next_move, target_mw
from tests.client.machine.fake_nvml import DEFAULT_MW, LEAST_MW, FakeNvml

OURS, OTHER = "GPU-1", "GPU-0"
WHOLE = {OTHER: DEFAULT_MW, OURS: DEFAULT_MW}
LOWERED = Lowered(card=OURS, before_mw=DEFAULT_MW, ours_mw=120_000)

Begun = Callable[[], PowerLimit]


@pytest.fixture
def nvml(tmp_path: Path) -> FakeNvml:
    return FakeNvml.with_cards(tmp_path / "driver.json", OTHER, OURS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "power-limit.json"


@pytest.fixture
def begun(nvml: FakeNvml, path: Path) -> Begun:
    """An engine, as many as are called for. What is garbage has lost its lock, as a killed process has."""
    return lambda: PowerLimit(OURS, path, nvml)


def killed(limit: PowerLimit) -> None:
    """Nothing is put back, and the system takes the lock."""
    limit._locked.close()


@given(st.integers(1, 1_000_000), st.integers(1, 1_000_000), st.floats(0.01, 1.0))
def test_a_target_is_within_what_the_card_takes_and_what_was_found(found: int, least: int, share: float) -> None:
    wanted = target_mw(found, least, share)
    assert wanted <= found
    assert wanted >= min(found, least)
    if least < wanted < found:
        assert wanted % 1000 == 0
        assert abs(wanted - found * share) <= 500


@pytest.mark.parametrize(
    ("share", "lowered", "lowered_for", "present_mw", "move"),
    [
        (1.0, None, 1.0, DEFAULT_MW, Move.STAY),
        (0.6, None, 1.0, DEFAULT_MW, Move.LOWER),
        (0.6, LOWERED, 0.6, 120_000, Move.STAY),
        (0.7, LOWERED, 0.6, 120_000, Move.LOWER_ANEW),
        (1.0, LOWERED, 0.6, 120_000, Move.PUT_BACK),
        (0.6, LOWERED, 0.6, 150_000, Move.LEAVE),
        (0.7, LOWERED, 0.6, DEFAULT_MW, Move.LEAVE),
        (1.0, LOWERED, 0.6, DEFAULT_MW, Move.LEAVE),
    ],
)
def test_next_move(share: float, lowered: Lowered | None, lowered_for: float, present_mw: int, move: Move) -> None:
    assert next_move(share, lowered, lowered_for, present_mw) is move


def test_its_own_card_is_lowered_once_and_put_back(nvml: FakeNvml, begun: Begun, path: Path) -> None:
    limit = begun()
    assert [limit.keep_to(0.6) for _ in range(3)] == [0.6] * 3
    assert (nvml.limits, nvml.sets, nvml.open) == (WHOLE | {OURS: 120_000}, 1, 0)
    assert limit.keep_to(1.0) == 1.0
    assert (nvml.limits, nvml.open, path.exists()) == (WHOLE, 0, False)
    assert limit.keep_to(0.7) == 0.7


def test_another_share_is_one_of_what_was_found(nvml: FakeNvml, begun: Begun) -> None:
    nvml.set_by_others(OURS, 180_000)  # its owner likes it quiet
    limit = begun()
    assert [limit.keep_to(share) for share in (0.8, 0.6, 0.9)] == [0.8, 0.6, 0.9]
    assert nvml.limits[OURS] == 162_000
    limit.keep_to(1.0)
    assert nvml.limits[OURS] == 180_000


@pytest.mark.parametrize("present_mw", [120_000, 118_500, DEFAULT_MW])
def test_a_kill_before_the_card_has_told_what_it_made_of_the_limit(nvml: FakeNvml, path: Path, present_mw: int) -> None:
    note = Note(path, nvml)
    note.write(LOWERED.model_copy(update={"being_set": True}))
    nvml.set_by_others(OURS, present_mw)
    note.read()
    assert (nvml.limits, path.exists()) == (WHOLE, False)


def test_no_less_than_the_card_takes(nvml: FakeNvml, begun: Begun, path: Path) -> None:
    limit = begun()
    assert limit.keep_to(0.1) == LEAST_MW / DEFAULT_MW
    assert nvml.limits[OURS] == LEAST_MW
    limit.keep_to(1.0)
    nvml.set_by_others(OURS, LEAST_MW)
    assert limit.keep_to(0.5) == 1.0
    assert not path.exists()
    nvml.set_by_others(OURS, DEFAULT_MW)
    assert limit.keep_to(0.5) == 0.5


def test_nobody_touches_what_is_whole(nvml: FakeNvml, begun: Begun, path: Path) -> None:
    nvml.fail(Init=pynvml.NVML_ERROR_UNKNOWN)
    assert begun().keep_to(1.0) == 1.0
    assert not path.parent.exists()


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_SUPPORTED])
def test_where_it_may_not_be_set_that_is_said_once(
    nvml: FakeNvml, begun: Begun, path: Path, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    nvml.fail(SetPowerManagementLimit=error)
    limit = begun()
    with caplog.at_level(logging.INFO):
        assert [limit.keep_to(share) for share in (0.6, 0.6, 1.0, 0.5)] == [1.0] * 4
    assert [(record.levelno, "rests" in record.message) for record in caplog.records] == [(logging.INFO, True)]
    assert (nvml.limits, nvml.open, path.exists()) == (WHOLE, 0, False)


@pytest.mark.parametrize(
    "function", ["Init", "GetHandleByUUID", "GetPowerManagementLimit", "GetPowerManagementLimitConstraints"]
)
def test_a_driver_that_does_not_answer_leaves_all_as_it_was(
    nvml: FakeNvml, begun: Begun, path: Path, function: str
) -> None:
    nvml.fail(**{function: pynvml.NVML_ERROR_UNKNOWN})
    assert begun().keep_to(0.6) == 1.0
    assert (nvml.limits, nvml.open, path.exists()) == (WHOLE, 0, False)


def test_a_divided_card_is_left_alone(nvml: FakeNvml, begun: Begun) -> None:
    nvml.divide(OURS)
    assert begun().keep_to(0.6) == 1.0
    assert nvml.limits == WHOLE


@pytest.mark.parametrize("known", ["no driver", "another maker's card", "no such card"])
def test_a_card_that_no_driver_knows(nvml: FakeNvml, path: Path, known: str, caplog: pytest.LogCaptureFixture) -> None:
    card = {"another maker's card": None, "no such card": "GPU-9"}.get(known, OURS)
    limit = PowerLimit(card, path, None if known == "no driver" else nvml)
    with caplog.at_level(logging.INFO):
        assert [limit.keep_to(0.6), limit.keep_to(0.6)] == [1.0, 1.0]
    limit.settle()
    assert (len(caplog.records), nvml.limits) == (1, WHOLE)


def test_a_folder_that_takes_no_note_keeps_the_limit_whole(nvml: FakeNvml, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert PowerLimit(OURS, tmp_path / "file" / "note.json", nvml).keep_to(0.6) == 1.0
    assert nvml.limits == WHOLE


def test_what_others_set_meanwhile_is_theirs(
    nvml: FakeNvml, begun: Begun, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = begun()
    limit.keep_to(0.6)
    nvml.set_by_others(OURS, 150_000)
    caplog.clear()  # a test before may have left a level that lets more through
    with caplog.at_level(logging.INFO):
        assert [limit.keep_to(share) for share in (0.6, 0.7, 1.0, 0.5)] == [1.0] * 4
    limit.settle()
    assert (nvml.limits[OURS], path.exists()) == (150_000, False)
    assert caplog.text.count("somebody else") == len(caplog.records) == 1


def test_a_card_that_rounds_is_still_known_as_ours(nvml: FakeNvml, path: Path) -> None:
    class Rounding(FakeNvml):
        def nvmlDeviceSetPowerManagementLimit(self, card: str, limit_mw: int) -> None:  # noqa: N802
            super().nvmlDeviceSetPowerManagementLimit(card, limit_mw // 25_000 * 25_000)

    limit = PowerLimit(OURS, path, Rounding(nvml._path))
    assert [limit.keep_to(0.7), limit.keep_to(0.7)] == [0.625, 0.625]
    killed(limit)
    Note(path, nvml).read()
    assert nvml.limits == WHOLE


def test_a_card_that_takes_nothing_rests_instead(nvml: FakeNvml, path: Path) -> None:
    class Deaf(FakeNvml):
        def nvmlDeviceSetPowerManagementLimit(self, _card: str, _limit_mw: int) -> None:  # noqa: N802
            pass

    assert PowerLimit(OURS, path, Deaf(nvml._path)).keep_to(0.7) == 1.0
    assert not path.exists()


def test_a_driver_that_does_it_and_reports_a_failure_is_put_right(nvml: FakeNvml, path: Path) -> None:
    class Lying(FakeNvml):
        def nvmlDeviceSetPowerManagementLimit(self, card: str, limit_mw: int) -> None:  # noqa: N802
            super().nvmlDeviceSetPowerManagementLimit(card, limit_mw)
            if limit_mw < DEFAULT_MW:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)

    assert PowerLimit(OURS, path, Lying(nvml._path)).keep_to(0.6) == 1.0
    assert (nvml.limits, path.exists()) == (WHOLE, False)


@pytest.mark.parametrize("share", [0.6, 0.7, 1.0])
@pytest.mark.parametrize("function", ["Init", "GetPowerManagementLimit", "SetPowerManagementLimit"])
def test_a_driver_that_fails_in_the_middle_leaves_it_to_whoever_comes_next(
    nvml: FakeNvml, begun: Begun, path: Path, function: str, share: float
) -> None:
    limit = begun()
    limit.keep_to(0.6)
    nvml.fail(**{function: pynvml.NVML_ERROR_GPU_IS_LOST})
    if share == 0.6 and function == "SetPowerManagementLimit":  # there is nothing to be set
        assert limit.keep_to(share) == 0.6
        return
    assert limit.keep_to(share) == 1.0
    limit.settle()
    assert (nvml.limits[OURS], path.exists()) == (120_000, True)
    with pytest.raises(DriverFailed):
        Note(path, nvml).read()
    nvml.fail()
    Note(path, nvml).read()
    assert (nvml.limits, path.exists(), nvml.open) == (WHOLE, False, 0)


def test_after_a_kill_the_agent_puts_it_back(nvml: FakeNvml, begun: Begun, path: Path) -> None:
    limit, note = begun(), Note(path, nvml)
    limit.keep_to(0.6)
    note.read()
    assert nvml.limits[OURS] == 120_000, "its engine looks after it"
    killed(limit)
    note.read()
    assert (nvml.limits, path.exists()) == (WHOLE, False)


def test_after_a_kill_the_next_engine_puts_it_back(nvml: FakeNvml, begun: Begun, path: Path) -> None:
    first = begun()
    first.keep_to(0.6)
    killed(first)
    begun().settle()
    assert (nvml.limits, path.exists()) == (WHOLE, False)


def test_after_a_kill_shares_are_of_what_was_before(nvml: FakeNvml, begun: Begun, path: Path) -> None:
    first = begun()
    first.keep_to(0.6)
    killed(first)
    on_other = PowerLimit(OTHER, path, nvml)
    assert on_other.keep_to(0.7) == 0.7
    assert nvml.limits == {OTHER: 140_000, OURS: DEFAULT_MW}
    on_other.keep_to(1.0)
    assert nvml.limits == WHOLE


@pytest.mark.parametrize("limit_mw", [150_000, DEFAULT_MW])
def test_after_a_kill_what_others_or_a_restart_have_set_stays(
    nvml: FakeNvml, begun: Begun, path: Path, limit_mw: int
) -> None:
    first = begun()
    first.keep_to(0.6)
    killed(first)
    nvml.set_by_others(OURS, limit_mw)
    Note(path, nvml).read()
    assert (nvml.limits[OURS], path.exists()) == (limit_mw, False)


def test_a_card_that_was_taken_out_has_forgotten_its_limit(nvml: FakeNvml, begun: Begun, path: Path) -> None:
    first = begun()
    first.keep_to(0.6)
    killed(first)
    nvml.take_out(OURS)
    Note(path, nvml).read()
    assert not path.exists()


def test_who_finds_somebody_at_it_looks_again_later(nvml: FakeNvml, begun: Begun, path: Path) -> None:
    limit, note = begun(), Note(path, nvml)
    with note.lock() as mine:
        assert mine is not None
        assert limit.keep_to(0.6) == 1.0
    assert limit.keep_to(0.6) == 0.6
    with note.lock() as mine:
        assert mine is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"card": "GPU-1", "before_mw": 0, "ours_mw": 1}'])
def test_a_note_that_cannot_be_read_is_no_note(nvml: FakeNvml, begun: Begun, path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    Note(path, nvml).read()
    assert (nvml.limits, path.exists()) == (WHOLE, False)
    assert begun().keep_to(0.5) == 0.5
