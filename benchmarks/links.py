"""Two workers that cannot hold a model alone, at home and in one house: what they measure, and whether they share it.

Two processes in network namespaces with the production listener and probe, over mutual TLS: once behind uplinks of
20 Mbit/s with 50 ms between them (a user-space hub delays every packet, `tc tbf` shapes), once with 1 ms and 1 Gbit/s.
What both ends measured goes through the server's own functions: estimates, cost model, clusters. The model is that of
llama-1b, of which neither machine's 12 GiB hold more than a part, in micro-batches as they are by default. The hub is
Python and carries some hundreds of Mbit/s: what is measured in one house is less than the gigabit.

Needs root, and says so otherwise. Namespaces end with the processes that are in them, however those end.

    sudo python benchmarks/links.py [--json FILE]
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rows import Row, parser, show
from wan.network import Site, Uplink, measured_rtt_ms, missing, netted
from wan.peers import Peers

from legion.config import RunConfig
from legion.ids import WorkerId
from legion.links import LinkSample
from legion.messages import Endpoint, LinkPeer
from legion_server.domain import links as lk
from legion_server.domain.clustering import decide
from legion_server.domain.cost import Candidate, Job
from legion_server.domain.links import Pair, Sample

GIB = 2**30
MBIT = 125_000.0
PATIENCE_S = 60.0
NOW = 1.0
CONFIG = RunConfig()
LLAMA_1B = (65_536_000, *(44_044_288,) * 22, 65_538_048)  # elements of its units
TOKENS_PER_S = 15.0  # of each: eight cores
HOME, HOUSE = ("50 ms, 20 Mbit/s", 20.0, 50.0), ("1 ms, 1 Gbit/s", 1000.0, 1.0)


def looked(sites: Sequence[Site], folder: Path) -> dict[Pair, tuple[Sample, ...]]:
    """Both ends' samples, as the server would keep them."""
    from identities import issue

    identities = issue(folder / "authority", len(sites))
    for place, identity in enumerate(identities):
        identity.save(folder / str(place))
    program = str(Path(__file__).parent / "wan" / "link_peer.py")
    commands = [(program, site.address, str(folder / str(place))) for place, site in enumerate(sites)]
    found: dict[Pair, tuple[Sample, ...]] = {}
    with Peers(sites, commands) as peers:
        ports = peers.await_all("port", PATIENCE_S)
        for here, there in ((0, 1), (1, 0)):
            worker, other = identities[here].worker_id, identities[there].worker_id
            endpoint = Endpoint(host=sites[there].address, port=ports[there])
            peers.tell(here, LinkPeer(worker_id=other, endpoint=endpoint).model_dump(mode="json"))
            said = [LinkSample.model_validate(one) for one in peers.await_one("samples", here, PATIENCE_S)]
            found |= lk.told(found, worker, said, NOW)
    return found


def decided(links: dict[Pair, tuple[Sample, ...]]) -> tuple[int, str]:
    """Members of the largest cluster, and why."""
    workers: list[WorkerId] = sorted({pair[0] for pair in links})
    candidates = [Candidate(w, name, 12 * GIB, 1, TOKENS_PER_S) for w, name in zip(workers, "ab", strict=True)]
    decision = decide(Job(CONFIG, LLAMA_1B), candidates, lk.known(links, workers, NOW))
    reason = decision.reasons[workers[0]]
    return max(map(len, decision.groups), default=0), "; ".join((reason.sentence, *reason.not_with))


def rows_of(name: str, rate_mbit: float, rtt_ms: float, folder: Path, bar: str) -> list[Row]:
    with netted([Uplink(rate_mbit, rtt_ms / 4)] * 2) as net:
        echo_ms = measured_rtt_ms(net.sites[0], net.sites[1])
        links = looked(net.sites, folder)
        sent_mb = net.sites[0].sent_bytes() / 1e6
    (link,) = lk.known(links, {pair[0] for pair in links}, NOW).values()
    rates = [rate / MBIT for rate in (link.there_bytes_per_s, link.back_bytes_per_s) if rate]
    members, why = decided(links)
    return [
        Row(f"{name}: round trip", 1000 * (link.rtt_s or 0.0), "ms", "", f"of an echo {echo_ms:.3g} ms"),
        Row(f"{name}: throughput", statistics.mean(rates) if rates else 0.0, "Mbit/s"),
        Row(f"{name}: sent by one to measure", sent_mb, "MB"),
        Row(f"{name}: members of one cluster", members, "", bar, why),
    ]


def main() -> int:
    given = parser(__doc__.splitlines()[0]).parse_args()
    if reason := missing():
        print(f"links.py cannot run here: {reason}.")
        return 2
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, ((name, rate_mbit, rtt_ms), bar) in enumerate(((HOME, "<= 0"), (HOUSE, ">= 2"))):
            rows += rows_of(name, rate_mbit, rtt_ms, Path(folder) / str(number), bar)
    return show("links and clusters", rows, given.json)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
