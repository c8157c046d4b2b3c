"""How often one address may fail to prove who it is."""

from collections import OrderedDict
from dataclasses import dataclass

from legion.errors import TooManyRequests

BURST = 20  # failures at once
REFILL_S = 6.0  # for one more
MOST_ADDRESSES = 10_000


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class FailureLimit:
    """A token bucket per address that only failures empty: whoever shows good tokens is never slowed down."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def check(self, address: str, now: float) -> None:
        """TooManyRequests, with `details["retry_after_s"]`, when the address has failed too often."""
        bucket = self._buckets.get(address)
        if bucket is None:
            return
        bucket.at = min(bucket.at, now)  # a clock that was set back must not lock anybody out until then
        left = _refilled(bucket, now)
        if left < 1:
            wait_s = (1 - left) * REFILL_S
            raise TooManyRequests("too many failed attempts from your address", retry_after_s=wait_s)

    def failed(self, address: str, now: float) -> None:
        bucket = self._buckets.setdefault(address, _Bucket(BURST, now))
        bucket.left, bucket.at = max(0.0, _refilled(bucket, now) - 1), now
        self._buckets.move_to_end(address)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)


def _refilled(bucket: _Bucket, now: float) -> float:
    return min(float(BURST), bucket.left + max(0.0, now - bucket.at) / REFILL_S)
