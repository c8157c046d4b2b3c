"""64 MB of float32 between two processes on loopback: PeerNetwork, mutual TLS 1.3, frames with CRC, into place.

Fetch is what a gather does (weights pulled from their owner), send what a reduce does (a gradient part summed at its
owner). Codec none. The bar holds for the median.

    python benchmarks/tensor_stream.py [--repeats 9] [--json FILE]
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from rows import Row, interval, parser, show

ELEMENTS = 16_000_000  # 64 MB
SIZE_MB = ELEMENTS * 4 / 1e6


class Side:
    """One of the two members, with its loop in a thread. The second owns all but a sliver of the one unit."""

    def __init__(self, rank: int, folder: Path) -> None:
        from legion.codec.registry import by_name
        from legion.comm.api import Group
        from legion.comm.bridge import Bridge
        from legion.comm.exchange import MemberExchange
        from legion.comm.member import Member
        from legion.comm.network import listen
        from legion.identity import Identity
        from legion.layout import Layout

        identities = [Identity.load(folder / str(r)) for r in (0, 1)]
        self.layout = Layout((ELEMENTS,), (1, 1_000_000))
        none = by_name("none")
        group = Group(1, tuple(identity.worker_id for identity in identities), rank)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.member = Member(group, self.layout, ordered=False, weights=none, gradients=none)
        self.network = self.on_loop(listen(identities[rank], "127.0.0.1", 0))
        self.exchange = MemberExchange(self.member, Bridge(self.loop, self.member.usage), static_claims=False)

    def on_loop(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def join(self, ports: list[int]) -> None:
        from legion.messages import Endpoint

        endpoints = {rank: Endpoint(host="127.0.0.1", port=port) for rank, port in enumerate(ports)}
        self.joined = self.network.joined(self.member, endpoints)
        self.on_loop(self.joined.__aenter__())


def owner(folder: Path) -> None:
    """The other process: offers weights and room for gradients, step after step, as its input says."""
    side = Side(1, folder)
    print(side.network.port, flush=True)
    side.join(json.loads(sys.stdin.readline()))
    weights = torch.randn(len(side.layout.bounds(0, 1)))
    room = torch.empty_like(weights)
    for line in sys.stdin:
        step = int(line)
        side.exchange.publish(step, 0, weights)
        side.exchange.collect(step, 0, 1, room)
        print("ready", flush=True)


def main() -> int:
    from identities import issue

    from legion.comm.api import Batches

    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=9)
    options = arguments.parse_args()
    speeds: dict[str, list[float]] = {"fetch": [], "send": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rank, identity in enumerate(issue(folder / "ca", 2)):
            identity.save(folder / str(rank))
        other = subprocess.Popen(
            [sys.executable, __file__, "--owner", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        side = Side(0, folder)
        ports = [side.network.port, int(other.stdout.readline())]
        other.stdin.write(json.dumps(ports) + "\n")
        side.join(ports)
        whole = torch.empty(side.layout.padded_unit(0))
        mine = torch.zeros(len(side.layout.bounds(0, 0)))
        for step in range(options.repeats + 1):
            other.stdin.write(f"{step}\n")
            other.stdin.flush()
            other.stdout.readline()
            side.exchange.publish(step, 0, mine)
            side.exchange.collect(step, 0, 1, torch.empty_like(mine))
            for kind in speeds:
                started = time.perf_counter()
                if kind == "fetch":
                    side.exchange.fetch(step, 0, whole).wait()
                else:
                    side.exchange.send_gradient(step, Batches((0,), 1), 0, whole).wait()
                if step:  # the first opens the connection
                    speeds[kind].append(SIZE_MB / (time.perf_counter() - started))
        other.stdin.close()
        other.wait()
    rows = []
    for kind, found in speeds.items():
        low, middle, high = interval(found)
        rows.append(Row(f"{kind} 64 MB", middle, "MB/s", ">= 400", f"quartiles {low:,.0f} to {high:,.0f}"))
    return show("Tensor stream, two processes, loopback, mutual TLS 1.3", rows, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--owner"]:
        owner(Path(sys.argv[2]))
        sys.exit()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    sys.exit(main())
