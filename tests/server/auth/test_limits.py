"""Only failures count, per address, and time forgives."""

import pytest

from legion.errors import TooManyRequests
from legion_server.auth.limits import BURST, MOST_ADDRESSES, REFILL_S, FailureLimit


def test_an_address_that_fails_too_often_waits() -> None:
    limit = FailureLimit()
    for _ in range(BURST):
        limit.check("1.2.3.4", 0.0)
        limit.failed("1.2.3.4", 0.0)
    with pytest.raises(TooManyRequests) as caught:
        limit.check("1.2.3.4", 0.0)
    assert caught.value.details["retry_after_s"] == pytest.approx(REFILL_S)
    limit.check("1.2.3.5", 0.0)
    limit.check("1.2.3.4", REFILL_S)


@pytest.mark.parametrize("back_s", [1.0, 3600.0, 1e9])
def test_a_clock_that_is_set_back_locks_nobody_out(back_s: float) -> None:
    limit, now = FailureLimit(), 2e9
    for _ in range(BURST):
        limit.failed("1.2.3.4", now)
    with pytest.raises(TooManyRequests) as caught:
        limit.check("1.2.3.4", now - back_s)
    assert caught.value.details["retry_after_s"] == pytest.approx(REFILL_S)
    limit.check("1.2.3.4", now - back_s + REFILL_S)


def test_checking_costs_nothing() -> None:
    limit = FailureLimit()
    for _ in range(BURST * 3):
        limit.check("1.2.3.4", 0.0)


def test_memory_is_bounded() -> None:
    limit = FailureLimit()
    for number in range(MOST_ADDRESSES + 50):
        limit.failed(str(number), 0.0)
    assert len(limit.buckets) == MOST_ADDRESSES
