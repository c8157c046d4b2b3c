"""How fast a burst came. Pure."""

from collections.abc import Sequence

LEAST_S = 0.001  # what a clock and a busy server can tell


def rate(arrivals: Sequence[tuple[float, int]]) -> float | None:
    """Bytes/s of the second half of a burst: the first is a connection that begins slowly (RFC 5681, 3.1).

    `arrivals`: when so many bytes came, s of a clock that only goes forward. None of what came in one piece.
    """
    total, come, middle = sum(size for _, size in arrivals), 0, None
    for at, size in arrivals:
        come += size
        if middle is None and 2 * come >= total:
            middle = at, come
    if middle is None or middle[1] == total:
        return None
    return (total - middle[1]) / max(arrivals[-1][0] - middle[0], LEAST_S)
