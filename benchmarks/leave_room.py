"""A home line that Legion fills: how long does a neighbour's ping take, and what does it cost Legion to leave room?

Three network namespaces: a home behind a router with a queue of 300 ms, the server, and somebody whom a person at home
plays with. The router is the hub between them: what `tc` holds back in the home itself, TCP there would know of. The
home's agent uploads a file again and again through its production HTTP client, line and rule; the person's pings, UDP
every 50 ms, take the same uplink. Once with `network.leave_room` and once without. The first seconds, in which the
queue that was filled must empty, are told apart. The same again with parts of rounds, as an engine sends them.

    sudo python benchmarks/leave_room.py [--rate 20] [--rtt 50] [--seconds 60] [--only agent engine] [--json FILE]
"""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from rows import Row, parser, show
from wan.kernel import end_with_parent
from wan.network import Net, Uplink, measured_rtt_ms, missing, netted

from legion.ids import WorkerId
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.sharing import Sharing, handshake_with
from legion_client.agent.traffic import Traffic
from legion_client.machine.congestion import FLOOR_S

SETTLED_S = 10.0
PING_S = 0.05
FILE_BYTES = 8 << 20
PORT = 8000
QUEUE_S = 0.3


class Measured(NamedTuple):
    """Pings before and after all has settled, in s; and what left the home since, in bytes/s."""

    early: list[float]
    late: list[float]
    bytes_per_s: float


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        while left > 0 and (data := self.rfile.read1(min(left, 1 << 16))):
            left -= len(data)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


async def upload(address: str, file: Path, seconds: float, leave_room: bool) -> None:
    """As an agent does, for so long."""
    traffic = Traffic()
    url = f"http://{address}:{PORT}"
    sharing = Sharing(traffic, handshake_with(url), lambda: leave_room)
    async with Coordinator(url, ssl.create_default_context(), WorkerId("a" * 32), "token", traffic) as server:
        keeping = asyncio.create_task(sharing.keep())
        await asyncio.sleep(1.0)  # the base
        print("sending", flush=True)
        try:
            async with asyncio.timeout(seconds + 1.0):
                while True:
                    await server.upload_update("5" * 64, FILE_BYTES, file)
        except TimeoutError:
            keeping.cancel()


def pings(net: Net, over: threading.Event) -> list[tuple[float, float]]:
    """When sent, and how long until the answer; a lost one has taken a second."""
    home, _, player = net.sites
    echo = player.run(lambda: _udp(player.address))
    mine = home.run(lambda: _udp(home.address))
    mine.settimeout(1.0)
    took: list[tuple[float, float]] = []

    def answer() -> None:
        while not over.is_set():
            try:
                data, caller = echo.recvfrom(64)
            except TimeoutError:
                continue
            echo.sendto(data, caller)

    echo.settimeout(0.5)
    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    number = 0
    while not over.is_set():
        number += 1
        started = time.monotonic()
        mine.sendto(str(number).encode(), echo.getsockname())
        try:
            while int(mine.recvfrom(64)[0]) != number:
                pass
            took.append((started, time.monotonic() - started))
        except TimeoutError:
            took.append((started, 1.0))
        over.wait(max(0.0, started + PING_S - time.monotonic()))
    answering.join()
    return took


def _udp(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, 0))
    return made


def measured(net: Net, program: Sequence[str], seconds: float) -> Measured:
    """While the program sends from the home: for so long from when it says so, and a little more."""
    over, home = threading.Event(), net.sites[0].address
    moments: list[float] = []  # from when to when it is counted
    carried: list[int] = []

    def run() -> None:
        command = net.command(0, [sys.executable, *program])
        with subprocess.Popen(command, stdout=subprocess.PIPE) as sending:
            assert sending.stdout is not None
            sending.stdout.readline()
            started = time.monotonic()
            for moment in (started + SETTLED_S, started + seconds):
                time.sleep(max(0.0, moment - time.monotonic()))
                moments.append(time.monotonic())
                carried.append(sum(one.bytes for one in net.carried() if one.source == home))
        over.set()

    uploading = threading.Thread(target=run)
    uploading.start()
    took = pings(net, over)
    uploading.join()
    (settled, end), (before, after) = moments, carried
    early = [trip for at, trip in took if at < settled]
    return Measured(early, [trip for at, trip in took if settled <= at <= end], (after - before) / (end - settled))


def agents(net: Net, folder: Path, seconds: float) -> tuple[Measured, Measured]:
    """While updates are stored at the server: with room left, and without."""
    file = folder / "update"
    file.write_bytes(os.urandom(FILE_BYTES))
    address = net.sites[1].address
    sink = net.sites[1].run(lambda: ThreadingHTTPServer((address, PORT), Sink))
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    given = [__file__, "--upload", address, str(file), str(seconds)]
    greedy, polite = (measured(net, [*given, str(room)], seconds) for room in (False, True))
    sink.shutdown()
    return polite, greedy


def engines(net: Net, folder: Path, seconds: float) -> tuple[Measured, Measured]:
    """While parts go to another worker: with room left, and without."""
    from identities import issue

    mine, other = issue(folder / "authority", 2)
    mine.save(folder / "mine")
    other.save(folder / "other")
    address, program = net.sites[1].address, str(Path(__file__).parent / "wan" / "parts_peer.py")
    taker = [sys.executable, program, "take", address, str(folder / "other"), mine.worker_id]
    with subprocess.Popen(net.command(1, taker), stdout=subprocess.PIPE, text=True) as taking:
        assert taking.stdout is not None
        given = [program, "send", address, taking.stdout.readline().strip(), str(folder / "mine"), other.worker_id]
        greedy, polite = (measured(net, [*given, str(seconds), str(room)], seconds) for room in (False, True))
        taking.kill()
    return polite, greedy


def rows_of(name: str, early: Sequence[float], late: Sequence[float], most_s: float, bar: bool) -> list[Row]:
    def at(part: float) -> float:
        return 1000 * sorted(late)[int(part * (len(late) - 1))]

    wanted = f"<= {1000 * most_s:.0f}" if bar else ""
    return [
        Row(f"{name}: ping, median", at(0.5), "ms", wanted),
        Row(f"{name}: ping, 95 %", at(0.95), "ms", wanted, f"longest {at(1):.0f}"),
        Row(f"{name}: ping in the first {SETTLED_S:.0f} s, longest", 1000 * max(early), "ms"),
    ]


def both(name: str, polite: Measured, greedy: Measured, most_s: float) -> list[Row]:
    rates = f"{polite.bytes_per_s * 8e-6:.1f} of {greedy.bytes_per_s * 8e-6:.1f} Mbit/s, on the wire"
    lost = 100 * (1 - polite.bytes_per_s / greedy.bytes_per_s)
    return [
        *rows_of(f"{name}, room is left", polite.early, polite.late, most_s, True),
        *rows_of(f"{name}, all is taken", greedy.early, greedy.late, most_s, False),
        Row(f"{name}: lost of the upload by leaving room", lost, "%", "<= 20", rates),
    ]


SENDERS = {"agent": agents, "engine": engines}


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--rate", type=float, default=20.0, help="Mbit/s, of the home's uplink")
    made.add_argument("--rtt", type=float, default=50.0, help="ms, to server and player")
    made.add_argument("--seconds", type=float, default=60.0, help="of each upload")
    made.add_argument("--only", nargs="+", choices=sorted(SENDERS), default=list(SENDERS))
    given = made.parse_args()
    if reason := missing():
        print(f"leave_room.py cannot run here: {reason}.")
        return 2
    far = given.rtt / 4
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    uplinks = [Uplink(given.rate, far, QUEUE_S), Uplink(None, far), Uplink(None, far)]
    with netted(uplinks) as net, tempfile.TemporaryDirectory() as folder:
        base_s = measured_rtt_ms(net.sites[0], net.sites[2]) / 1000
        rows = [Row("ping without load", 1000 * base_s, "ms", "", f"{given.rate:g} Mbit/s up, queue 300 ms")]
        for name in given.only:
            polite, greedy = SENDERS[name](net, Path(folder), given.seconds)
            rows += both(name, polite, greedy, 2 * base_s + FLOOR_S)
    rows.append(Row("load", os.getloadavg()[0], "", "", f"{os.cpu_count()} cores"))
    return show("room on a shared line", rows, given.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--upload"]:
        end_with_parent()
        asyncio.run(upload(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]), sys.argv[5] == "True"))
    else:
        sys.exit(main())
