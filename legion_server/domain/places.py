"""Where workers are in the network, as far as it is measured: for the choice of who reduces. Pure."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from legion.ids import WorkerId
from legion.links import SERVER
from legion_server.domain import links as lk
from legion_server.domain.links import Links

GOOD_UPLINK = 0.25  # of the median of those that are known: who has less makes everybody wait for its updates


@dataclass(frozen=True, slots=True)
class Places:
    """What is not known is not there."""

    regions: Mapping[WorkerId, int] = field(default_factory=dict)
    uplinks: Mapping[WorkerId, float] = field(default_factory=dict)  # bytes/s, to the server

    def good(self, able: Sequence[WorkerId]) -> list[WorkerId]:
        """Those whose uplink is not much worse than the others'; who was not measured may be as good as anyone."""
        known = [self.uplinks[worker] for worker in able if worker in self.uplinks]
        least = GOOD_UPLINK * statistics.median(known) if known else 0.0
        return [worker for worker in able if self.uplinks.get(worker, least) >= least]

    def crowd(self, worker: WorkerId, chosen: Counter[WorkerId]) -> int:
        """How often somebody of the worker's own region was chosen; 0 where nothing is known of it."""
        region = self.regions.get(worker)
        return 0 if region is None else sum(n for w, n in chosen.items() if self.regions.get(w) == region)


NOWHERE = Places()


def places(links: Links, workers: Iterable[WorkerId], now: float) -> Places:
    there = sorted(workers)
    accounts = {worker: lk.account(links, (worker, SERVER), now) for worker in there}
    uplinks = {worker: one.up_bytes_per_s for worker, one in accounts.items() if one is not None}
    return Places(lk.regions(links, there, now), {w: up for w, up in uplinks.items() if up is not None})
