"""Numbers, sizes and times as people read them."""

from datetime import datetime

import pytest

from legion_client.ui.words import English, amount, duration, memory, moment, percent, size

WORDS = English()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.26, "0.3"), (7.5, "7.5"), (842, "842"), (12_345, "12,345"), (1_234_567, "1.23 M"), (5e9, "5.00 G")],
)
def test_amount(value: float, text: str) -> None:
    assert amount(WORDS, value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.1234, "12 %"), (0.0224, "2.2 %"), (0.000213, "0.021 %"), (1e-12, "0.000000 %")],
)
def test_small_shares_do_not_vanish(share: float, text: str) -> None:
    assert percent(WORDS, share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1.0 kB"), (2_400_000, "2.4 MB"), (3.2e13, "32 TB"), (5e16, "50,000 TB")],
)
def test_size(value: float, text: str) -> None:
    assert size(WORDS, value) == text


def test_memory_is_in_powers_of_two() -> None:
    assert memory(WORDS, 12 * 2**30) == "12 GB"
    assert memory(WORDS, 1.5 * 2**30) == "1.5 GB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 minute"), (61, "2 minutes"), (3600, "1 hour"), (5400, "1 hour 30 min"), (200_000, "2 days")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(WORDS, seconds) == text


def test_moments_name_the_day_when_it_is_not_today() -> None:
    now = datetime(2027, 3, 1, 14, 30).timestamp()
    assert moment(WORDS, datetime(2027, 3, 1, 9, 5).timestamp(), now) == "09:05"
    assert moment(WORDS, datetime(2027, 3, 2, 8, 0).timestamp(), now) == "tomorrow 08:00"
    assert moment(WORDS, datetime(2027, 2, 27, 8, 0).timestamp(), now) == "Sat 27 Feb 08:00"
