"""macOS' function replaced at the boundary of ctypes."""

import math

import pytest

from legion_client.machine.idle_macos import LastEvent


@pytest.mark.parametrize(
    ("said", "idle_s"), [(12.5, 12.5), (0.0, 0.0), (-1.0, None), (math.inf, None), (math.nan, None)]
)
def test_idle_time_is_that_of_any_input(said: float, idle_s: float | None) -> None:
    class Framework:
        def CGEventSourceSecondsSinceLastEventType(self, state: int, kind: int) -> float:  # noqa: N802
            assert (state, kind) == (0, 2**32 - 1)
            return said

    assert LastEvent(Framework()).read() == idle_s
