"""How long is waited for a peer: for its answer to anything, and for a transfer that has begun."""

FIRST_CONTACT_S = 120.0  # members learn of a plan up to a few heartbeats apart
SILENT_S = 5.0  # without a watch or an answer, after there was one: lost
REFUSED_S = 0.5  # the same of a peer whose computer is there, and nobody listens any more
REFUSED = "Connection refused"  # in gRPC's words; where it has others, SILENT_S holds
MOVING_S = 20.0  # the same of a peer behind a relay: when that dies, it takes so long until another is found


class Pace:
    """How long a transfer may take: ten times what the measured speed says, and 10 s of grace."""

    def __init__(self) -> None:
        self._bytes_per_s = 125_000.0  # until measured: 1 Mbit/s

    def deadline_s(self, size_bytes: int) -> float:
        return 10.0 + 10.0 * size_bytes / self._bytes_per_s

    def takes_s(self, size_bytes: int) -> float:
        return size_bytes / self._bytes_per_s

    def measured(self, size_bytes: int, took_s: float) -> None:
        """An average over recent transfers; small ones say nothing about speed."""
        if size_bytes >= 65_536 and took_s > 0:
            self._bytes_per_s += 0.25 * (size_bytes / took_s - self._bytes_per_s)

    def missed(self, size_bytes: int, took_s: float) -> None:
        """A transfer was cut off after so much: the next try must have the time for it at that speed."""
        if size_bytes and took_s > 0:
            self._bytes_per_s = min(self._bytes_per_s, size_bytes / took_s)


def patience_s(error: str, met: bool, relayed: bool, listens: bool = False) -> float:
    """How long a peer may be silent, by how it was last failed to be reached, before it counts as lost."""
    if REFUSED in error and (met or listens) and not relayed:
        return REFUSED_S
    if not met:
        return FIRST_CONTACT_S
    return MOVING_S if relayed else SILENT_S  # behind a relay the error is the relay's
