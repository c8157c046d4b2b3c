"""How work becomes credit, and how credit fades from the recent average. Pure.

One credit is 10^12 floating-point operations of work that committed rounds included: counted tokens times what a
token costs. Counted tokens are bounded by leases and measured speed, not verified, and so is credit. The ledger counts
in millions of operations (MFLOP), in integers: sums of it are exact.

The recent average halves in a week in which nothing comes, as BOINC's does. What is stored is not the average, which
would change with time, but what it is worth at one fixed moment, `mflop * 2^((at - EPOCH_S) / HALF_LIFE_S)`. That never
fades, orders accounts as the average does at any time, and is a float until about the year 2045.
"""

import math

HALF_LIFE_S = 7 * 86_400.0
EPOCH_S = 1_767_225_600.0  # 2026-01-01
DAY_S = 86_400
MFLOP_PER_CREDIT = 10**6
FLOP_PER_TOKEN = 6  # and parameter (Kaplan et al., arXiv 2001.08361, 2.1)


def mflop_of(tokens: int, parameters: int) -> int:
    """What training on so many tokens takes."""
    return tokens * parameters * FLOP_PER_TOKEN // 10**6


def recent_of(mflop: float, at: float) -> float:
    """Its worth at EPOCH_S, of work done `at` (s since 1970)."""
    return mflop * math.pow(2.0, (at - EPOCH_S) / HALF_LIFE_S)


def credit_a_day(recent: float, now: float) -> float:
    """The average over the last week or so: whoever earns the same every day is at that."""
    mflop = recent * math.pow(2.0, (EPOCH_S - now) / HALF_LIFE_S)
    return mflop * math.log(2) / HALF_LIFE_S * DAY_S / MFLOP_PER_CREDIT


def day_of(at: float) -> int:
    """Days since 1970, UTC."""
    return int(at // DAY_S)
