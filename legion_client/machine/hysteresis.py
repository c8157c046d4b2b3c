"""Conditions with memory, so that a reading that trembles at a limit changes nothing every second.

All values are states that go in and come out; time is what has passed since the last look, never a clock.
"""

from dataclasses import dataclass

PACE_S = 10.0  # between two changes of pace: a heat sink needs about as long to answer
SLOWER, FASTER, SLOWEST = 0.2, 0.1, 0.3
COOLER_C = 3.0  # below the limit before it gets faster again


@dataclass(frozen=True, slots=True)
class Latch:
    """On once its condition has held for `rise_s`, off once it has been away for `fall_s`, each without a break."""

    on: bool = False
    against_s: float | None = None  # how long the condition has been seen to contradict `on`; None: it does not

    def after(self, holds: bool, passed_s: float, rise_s: float, fall_s: float) -> "Latch":
        if holds == self.on:
            return Latch(self.on)
        # What was between the last look and this one is not known: the count begins now.
        against_s = 0.0 if self.against_s is None else self.against_s + passed_s
        needed_s = fall_s if self.on else rise_s
        return Latch(not self.on) if against_s >= needed_s else Latch(self.on, against_s)


@dataclass(frozen=True, slots=True)
class Pace:
    """A share of the time to compute that follows the heat in steps, at most one every PACE_S."""

    share: float = 1.0
    held_s: float = PACE_S  # since the last step, counted up to PACE_S

    def after(self, celsius: float | None, slow_celsius: float, passed_s: float) -> "Pace":
        """A temperature that is not known slows nothing down: the pace rises again."""
        held_s = min(PACE_S, self.held_s + passed_s)
        share = self.share
        if celsius is None or celsius < slow_celsius - COOLER_C:
            share = min(1.0, share + FASTER)
        elif celsius > slow_celsius:
            share = max(SLOWEST, share - SLOWER)
        share = round(share, 2)
        if share == self.share or held_s < PACE_S:
            return Pace(self.share, held_s)
        return Pace(share, 0.0)
