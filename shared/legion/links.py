"""What workers and the coordinator tell one another about links: who measures whom, and what came of it.

A link is measured from one end: its round trip by calls that carry nothing, its throughput by bursts that the other
end takes and gives. Nobody trusts a single sample, nor one end alone: `legion_server.domain.links` says how.
"""

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import Field

from legion.ids import ClusterId, WorkerId
from legion.messages import Message, WorkerState

LINK_BURST_BYTES = 2 * 2**20  # the largest burst between two workers
NEAR_RTT_S = 0.005  # within it, workers may share a model
REGION_RTT_S = 0.05  # within it, they are in one region
SERVER = WorkerId("server")  # the other end of a worker's line to the server
MOST_SAMPLES = 64  # of a report

Seconds = Annotated[float, Field(gt=0, le=60)]
Rate = Annotated[float, Field(gt=0, le=1e12)]  # bytes/s
# no_bulk: small messages arrive, a burst does not.
Outcome = Literal["measured", "no_bulk", "unreachable"]
LinkState = Literal["measured", "one_sided", "unmeasured", "no_bulk", "unreachable"]


class LinkSample(Message):
    """One look at the link to `peer`, a worker or SERVER. What was not measured is None."""

    peer: WorkerId
    outcome: Outcome = "measured"
    rtt_s: Seconds | None = None
    up_bytes_per_s: Rate | None = None  # from the one who tells this to the peer
    down_bytes_per_s: Rate | None = None


class LinksReport(Message):
    """POST /network/links."""

    samples: Annotated[tuple[LinkSample, ...], Field(max_length=MOST_SAMPLES)]


class LinkView(Message):
    """What is known of the link between two workers; figures of the worse of their two accounts."""

    workers: tuple[WorkerId, WorkerId]
    state: LinkState
    rtt_s: float | None
    bytes_per_s: tuple[float | None, float | None]  # from the first to the second, and back
    samples: tuple[int, int]  # young ones of the first, and of the second
    measured_at: float | None  # s since 1970; the newest


class WorkerPlace(Message):
    """Where a worker is in the network."""

    worker_id: WorkerId
    name: str
    region: int | None  # workers of the same number are near one another; None: nothing is known
    server_rtt_s: float | None
    server_up_bytes_per_s: float | None
    server_down_bytes_per_s: float | None


class NetworkView(Message):
    """GET /network. Pairs and workers by name are for admins."""

    workers: int  # here now
    pairs: dict[LinkState, int]  # of those workers
    regions: int
    near_pairs: int  # good enough for one cluster, as far as round trips tell
    median_rtt_s: float | None
    median_bytes_per_s: float | None
    links: tuple[LinkView, ...] = ()
    places: tuple[WorkerPlace, ...] = ()


class ClusterReason(Message):
    """Why a worker is where it is."""

    worker_id: WorkerId
    name: str
    state: WorkerState
    cluster: ClusterId | None  # None: in none
    kind: Literal["alone", "together", "waiting", "policy", "away"]
    with_workers: tuple[WorkerId, ...] = ()
    sentence: str
    not_with: tuple[str, ...] = ()  # a sentence for each of the others it might have shared the model with


class ClustersView(Message):
    """GET /network/clusters."""

    policy: str
    workers: tuple[ClusterReason, ...]


def in_one_network(host: str) -> bool:
    """Whether a host's address is of this computer or of a private network: what goes there leaves no house."""
    try:
        address = ip_address(host)
    except ValueError:
        return False  # a name tells nothing
    return address.is_loopback or address.is_private or address.is_link_local
