"""How fast this worker's parts leave."""

UNMEASURED_BYTES_PER_S = 1_250_000.0  # 10 Mbit/s
SMALL_BYTES = 65_536


class Uplink:
    """How fast parts leave, as far as it is known: the mean of recent ones, each as if it had the line to itself.

    Parts go out together, so this is less than the line carries: what is chosen by it fits.
    """

    def __init__(self) -> None:
        self.bytes_per_s = UNMEASURED_BYTES_PER_S

    def measured(self, size_bytes: int, took_s: float) -> None:
        """Small parts say nothing about speed."""
        if size_bytes >= SMALL_BYTES and took_s > 0:
            self.bytes_per_s += 0.25 * (size_bytes / took_s - self.bytes_per_s)
