"""Whether an engine that crashed is started again. Pure."""

MOST = 3  # crashes in a row of WITHIN_S: a defect that starting again does not cure
WITHIN_S = 600.0


def counted(before: tuple[float, ...], now: float) -> tuple[float, ...]:
    """The crashes that still count, this one included; s of a clock that only goes forward."""
    return (*(moment for moment in before if now - moment < WITHIN_S), now)


def hopeless(crashes: tuple[float, ...]) -> bool:
    """Rather rest than crash again."""
    return len(crashes) >= MOST
