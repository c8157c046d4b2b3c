"""Workers behind NAT: do all reach all, how fast is a relay, and what does it see?

Two workers with public addresses and two behind masquerading routers (iptables, in network namespaces) train in one
cluster: the real programs, in which every member fetches weights from every other and sends it gradients. Then the
agent's and engine's network code, without a model, sends gradients from a public worker to another and to one behind
a router, in turns. tcpdump looks on at the relay and at the public workers.

Needs root, and says so otherwise.

    sudo python benchmarks/nat.py [--rate 100] [--megabytes 40] [--repeats 5] [--json FILE]
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from behind_nat.capture import Stream, Way, capturing, is_tls, name_of, streams
from behind_nat.network import Internet, Place, internet, missing
from behind_nat.peer import MARKER
from rows import Row, parser, show, status_of

from legion.errors import RunError
from legion.ids import host_name
from legion_client.agent.enrolment import Enrolment
from legion_client.agent.reach import Reached, load
from legion_client.paths import Home
from legion_server.client import call
from legion_server.settings import Settings

PEER = Path(__file__).parent / "behind_nat" / "peer.py"
RELAY_PORT = 8443
PATIENCE_S = 240.0
LEAST_BYTES = 50_000  # that a pair moved, if it exchanged anything
CONFIG = {
    "steps": 3,
    "model": {"preset": "tiny"},
    "batch": {"micro_batch_blocks": 1, "micro_batches": 4},
    "optimizer": {"warmup_steps": 0},
    "cluster": {"policy": "one"},
    "start": {"workers": 4},
}


class Programs:
    """Those that run, each with its log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, place: Place, *program: str) -> "subprocess.Popen[bytes]":
        log = (self._folder / f"{place.name}.log").open("ab")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with log:
            self._running.append(
                subprocess.Popen(
                    place.command([sys.executable, "-m", *program]), stdout=log, stderr=log, env=environment
                )
            )
        return self._running[-1]

    def end(self) -> None:
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait()


class Server:
    """The server of a place, spoken to as its admin from the same place."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place = place
        self._settings = Settings.model_construct(data_dir=folder)

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        return json.loads(self._place.run(lambda: call(self._settings, method, path, **arguments)))

    def invite(self, file: Path, **body: Any) -> Path:
        file.write_text(self.ask("POST", "/invites", json=body)["invite"])
        return file


def wait_for(file: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not file.exists():
        if time.monotonic() > until:
            raise RunError(f"{file} was not written within {PATIENCE_S:.0f} s")
        time.sleep(0.05)


def main() -> int:
    made = parser("Reachability, a relay's throughput, and what it sees.")
    made.add_argument("--rate", type=float, default=100.0, help="Mbit/s of every link, in each direction")
    made.add_argument("--megabytes", type=float, default=40.0, help="of a gradient whose way is timed")
    made.add_argument("--repeats", type=int, default=5)
    given = made.parse_args()
    if reason := missing():
        print(f"nat.py cannot run here: {reason}.")
        return 2
    with tempfile.TemporaryDirectory() as name, internet(given.rate) as net:
        rows = measured(net, Path(name), given)
    rows.append(Row("load", os.getloadavg()[0], "", "", f"{os.cpu_count()} cores"))
    return show("workers behind NAT", rows, given.json)


def measured(net: Internet, folder: Path, given: Namespace) -> list[Row]:
    programs = Programs(folder)
    try:
        server = started(net, folder, programs)
        homes = [Home(folder / worker.name) for worker in net.workers]
        rows = trained(net, folder, programs, server, homes)
        rows += timed(net, folder, homes, given)
    except (RunError, OSError, AssertionError):
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name}", log.read_text(errors="replace")[-3000:], sep="\n")
        raise
    finally:
        programs.end()
    return rows


def started(net: Internet, folder: Path, programs: Programs) -> Server:
    """A server with a run, and a relay."""
    (folder / "text.txt").write_text("".join(f"{n} bottles of beer on the wall. " for n in range(2000)))
    place, data = net.server, folder / "server"
    serve = ("--data-dir", str(data), "--host", place.address, "--ready-file", str(folder / "server.ready"))
    programs.start(place, "legion_server", "serve", *serve, "--no-assembler")
    wait_for(folder / "server.ready")
    server = Server(place, data)
    text = {"source": "text", "paths": [str(folder / "text.txt")], "seq_len": 64}
    server.ask("PUT", "/training/config", json=CONFIG | {"data": text})
    invite = server.invite(folder / "relay.invite", relay=True)
    relay = ("--data-dir", str(folder / "relay"), "--join", str(invite), "--port", str(RELAY_PORT))
    programs.start(net.relay, "legion_server", "relay", *relay, "--ready-file", str(folder / "relay.ready"))
    wait_for(folder / "relay.ready")
    return server


def trained(net: Internet, folder: Path, programs: Programs, server: Server, homes: list[Home]) -> list[Row]:
    """A whole run of the real programs in one cluster."""
    invite = server.invite(folder / "workers.invite", uses=len(homes))
    looked_at = {place.name: folder / f"{place.name}.pcap" for place in (net.relay, *net.workers[:2])}
    with contextlib.ExitStack() as stack:
        for place in (net.relay, *net.workers[:2]):
            stack.enter_context(capturing(place, looked_at[place.name]))
        began = time.monotonic()
        arguments = [("--no-gui", "--join", str(invite), "--home", str(home.root)) for home in homes]
        clients = [
            programs.start(place, "legion_client", *given) for place, given in zip(net.workers, arguments, strict=True)
        ]
        ended = [client.wait(PATIENCE_S) for client in clients]
        took_s = time.monotonic() - began
    if any(ended) or server.ask("GET", "/metrics")["phase"] != "complete":
        raise RunError(f"the run did not end well: {ended}")
    found = [load(home.reachability) or Reached() for home in homes]
    names = {host_name(of(home).worker_id): place.public for home, place in zip(homes, net.workers, strict=True)}
    at_relay = streams(looked_at["relay"])
    relayed = pairs(at_relay, names, net.relay.public)
    direct = {pair for p in net.workers[:2] for pair in pairs(streams(looked_at[p.name]), names, p.public)}
    return [
        Row("found to be direct, of 2 public workers", sum(f.how == "direct" for f in found[:2]), "", ">= 2"),
        Row("found to need the relay, of 2 behind routers", sum(f.how == "relay" for f in found[2:]), "", ">= 2"),
        Row("a run of one cluster of all four", took_s, "s", "", f"{CONFIG['steps']} steps, start and end included"),
        Row("pairs that exchanged, one way each", len(relayed | direct), "of 12", ">= 12", "caller and called"),
        Row("of them directly", len(direct), "", ">= 2", "whoever calls a public worker"),
        Row("of them through the relay", len(relayed), "", ">= 6", "whoever calls one behind a router"),
        *tls_rows("the run", at_relay),
    ]


def of(home: Home) -> Enrolment:
    known = Enrolment.load(home.identity)
    if known is None:
        raise RunError(f"{home.root} has not joined")
    return known


def pairs(found: Mapping[Way, Stream], names: Mapping[str, str], at: str) -> set[tuple[str, str]]:
    """Who called whom at this address, by public addresses, and moved more than a handshake and some pings."""
    called = set()
    for way, stream in found.items():
        name = name_of(stream.data[:20_000])
        moved = len(stream.data) + len(found.get(way.back, Stream()).data)
        if way.target == at and name in names and moved >= LEAST_BYTES:
            called.add((way.source, names[name]))
    return called


def tls_rows(what: str, found: Mapping[Way, Stream]) -> list[Row]:
    """Of all that the relay sent and received, on whatever port."""
    spoken = {way: stream for way, stream in found.items() if stream.pieces}
    other = [way for way, stream in spoken.items() if not is_tls(stream.data)]
    cut = [way for way, stream in spoken.items() if not stream.is_whole]
    seen = sum(MARKER in piece for stream in spoken.values() for piece in (stream.data,))
    note = f"{len(spoken)} directions of connections, {sum(len(s.data) for s in spoken.values()) / 1e6:.1f} MB"
    return [
        Row(f"{what}: directions at the relay that are not TLS records only", len(other), "", "<= 0", note),
        Row(f"{what}: directions of which packets were not captured", len(cut), "", "<= 0"),
        Row(f"{what}: directions with the plaintext marker", seen, "", "<= 0"),
    ]


# Throughput.


class Peer:
    """One of `peer.py`."""

    def __init__(self, place: Place, home: Home, values: int) -> None:
        program = place.command([sys.executable, str(PEER), str(home.root), str(values)])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LEGION_LOG_LEVEL": "warning"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.here = self.hear("endpoint")

    def tell(self, **what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def hear(self, word: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {}
        if word not in said:
            raise RunError(f"a peer ended, or said {line!r}")
        return said

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def joined(sender: tuple[Place, Home], receiver: tuple[Place, Home], values: int) -> Iterator[tuple[Peer, Peer]]:
    with contextlib.ExitStack() as stack:
        both = []
        for place, home in (sender, receiver):
            both.append(Peer(place, home, values))
            stack.callback(both[-1].end)
        told = {"workers": [p.here["worker"] for p in both], "endpoints": [p.here["endpoint"] for p in both]}
        for rank, peer in enumerate(both):
            peer.tell(rank=rank, **told)
            peer.hear("joined")
        yield both[0], both[1]


def send(pair: tuple[Peer, Peer], step: int) -> float:
    """Seconds until the receiver has said that it has all."""
    sender, receiver = pair
    receiver.tell(step=step)
    receiver.hear("opened")
    sender.tell(step=step)
    took_s = float(sender.hear("took_s")["took_s"])
    if not receiver.hear("equal")["equal"]:
        raise RunError("a gradient arrived changed")
    return took_s


def timed(net: Internet, folder: Path, homes: list[Home], given: Namespace) -> list[Row]:
    """A gradient from one public worker to the other, and to one behind a router; in turns."""
    values = int(given.megabytes * 1e6) // 16_384 * 4096
    size_bytes, places = 4 * values, list(zip(net.workers, homes, strict=True))
    took: dict[str, list[float]] = {"direct": [], "relay": []}
    file = folder / "marked.pcap"
    with joined(places[0], places[1], values) as direct, joined(places[0], places[2], values) as relay:
        hows = direct[1].here["how"], relay[1].here["how"]
        if hows != ("direct", "relay"):
            raise RunError(f"the receivers are reached {hows}")
        for step in range(given.repeats + 1):  # the first is for connections and TCP to get going
            for way, pair in (("direct", direct), ("relay", relay)):
                took[way].append(send(pair, step))
    small = values // 10 // 4096 * 4096
    with capturing(net.relay, file), joined(places[0], places[2], small) as relay:
        send(relay, 0)
    speed = {way: [size_bytes * 8e-6 / t for t in times[1:]] for way, times in took.items()}
    median = {way: statistics.median(rates) for way, rates in speed.items()}
    spread = {way: f"{min(rates):.1f} to {max(rates):.1f}" for way, rates in speed.items()}
    size = f"{size_bytes / 1e6:.1f} MB, {given.repeats} times in turns"
    return [
        Row("gradient to a public worker, directly", median["direct"], "Mbit/s", "", f"{spread['direct']}; {size}"),
        Row("the same to one behind a router, by the relay", median["relay"], "Mbit/s", "", spread["relay"]),
        Row("by the relay over directly", median["relay"] / median["direct"], "", ">= 0.7", f"{given.rate:g} Mbit/s"),
        *tls_rows("a marked gradient", streams(file)),
    ]


if __name__ == "__main__":
    sys.exit(status_of(main))
