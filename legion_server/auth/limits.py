"""How much callers may ask: failed proofs of who one is, and requests of any kind."""

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from legion.errors import TooManyRequests
from legion_server.settings import parsed

BURST = 20  # failures at once
REFILL_S = 6.0  # for one more
MOST_ADDRESSES = 10_000
MOST_CALLERS = 50_000
BURST_S = 20.0  # a pause as long as this earns a burst of as many seconds' requests
IPV6_PREFIX = 64  # one customer's line: who has one address of it has them all


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Buckets:
    """A token bucket per key, in bounded memory: the key that was used longest ago is forgotten, which forgives it."""

    def __init__(self, burst: float, per_s: float, most: int) -> None:
        self._burst = burst
        self._per_s = per_s
        self._most = most
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_s(self, key: str, now: float) -> float:
        """Until there is one more to take; 0: now."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return 0.0
        bucket.at = min(bucket.at, now)  # a clock that was set back must not lock anybody out until then
        return max(0.0, (1 - self._refilled(bucket, now)) / self._per_s)

    def take(self, key: str, now: float) -> None:
        """One, or what is left."""
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now))
        bucket.left, bucket.at = max(0.0, self._refilled(bucket, now) - 1), now
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)

    def clear(self) -> None:
        self._buckets.clear()

    def __len__(self) -> int:
        return len(self._buckets)

    def _refilled(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.left + max(0.0, now - bucket.at) * self._per_s)


class FailureLimit:
    """Per address; only failures count: whoever shows good tokens is never slowed down."""

    def __init__(self) -> None:
        self.buckets = Buckets(BURST, 1 / REFILL_S, MOST_ADDRESSES)

    def check(self, address: str, now: float) -> None:
        """TooManyRequests, with `details["retry_after_s"]`, when the address has failed too often."""
        if wait_s := self.buckets.wait_s(address, now):
            raise TooManyRequests("too many failed attempts from your address", retry_after_s=wait_s)

    def failed(self, address: str, now: float) -> None:
        self.buckets.take(address, now)


class RequestLimit:
    """Requests of one caller; `per_s` lastingly, BURST_S times as many at once. 0: as many as they like."""

    def __init__(self, per_s: float) -> None:
        self._buckets = Buckets(per_s * BURST_S, per_s, MOST_CALLERS) if per_s else None

    def take(self, caller: str, now: float) -> None:
        """TooManyRequests, with `details["retry_after_s"]`; what is refused does not count."""
        if self._buckets is None:
            return
        if wait_s := self._buckets.wait_s(caller, now):
            raise TooManyRequests("you ask for more than this server gives one caller", retry_after_s=wait_s)
        self._buckets.take(caller, now)


def line_of(address: str) -> str:
    """What is limited as one caller: an IPv4 address, or the network of an IPv6 address."""
    found = parsed(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Network((found, IPV6_PREFIX), strict=False))
    return str(found) if found is not None else address
