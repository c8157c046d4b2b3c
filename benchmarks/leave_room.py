"""A home line that Legion fills: how long does a neighbour's ping take, and what does it cost Legion to leave room?

Three network namespaces: a home behind a router with a queue of 300 ms, the server, and somebody whom a person at home
plays with. The router is the hub between them: what `tc` holds back in the home itself, TCP there would know of. The
home's agent uploads a file again and again through its production HTTP client, line and rule; the person's pings, UDP
every 50 ms, take the same uplink. Once with `network.leave_room` and once without. The first seconds, in which the
queue that was filled must empty, are told apart.

    sudo python benchmarks/leave_room.py [--rate 20] [--rtt 50] [--seconds 60] [--json FILE]
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


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        while left > 0 and (data := self.rfile.read1(min(left, 1 << 16))):
            left -= len(data)
            received.append((time.monotonic(), len(data)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


received: list[tuple[float, int]] = []  # when, and how many bytes


async def upload(address: str, file: Path, seconds: float, leave_room: bool) -> None:
    """As an agent does, for so long."""
    traffic = Traffic()
    url = f"http://{address}:{PORT}"
    sharing = Sharing(traffic, handshake_with(url), lambda: leave_room)
    async with Coordinator(url, ssl.create_default_context(), WorkerId("a" * 32), "token", traffic) as server:
        keeping = asyncio.create_task(sharing.keep())
        await asyncio.sleep(1.0)  # the base
        try:
            async with asyncio.timeout(seconds):
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


def measured(net: Net, file: Path, seconds: float, leave_room: bool) -> tuple[list[float], list[float], float]:
    """Pings before and after all has settled, in s; and what got through since, in bytes/s."""
    received.clear()
    over, started = threading.Event(), time.monotonic()
    program = [sys.executable, __file__, "--upload", net.sites[1].address, str(file), str(seconds), str(leave_room)]
    command = net.command(0, program)

    def run() -> None:
        subprocess.run(command, check=True)
        over.set()

    uploading = threading.Thread(target=run)
    uploading.start()
    took = pings(net, over)
    uploading.join()
    settled, end = started + SETTLED_S, started + seconds
    through = sum(size for at, size in received if settled <= at <= end) / (seconds - SETTLED_S)
    early = [trip for at, trip in took if at < settled]
    return early, [trip for at, trip in took if settled <= at <= end], through


def rows_of(name: str, early: Sequence[float], late: Sequence[float], most_s: float, bar: bool) -> list[Row]:
    def at(part: float) -> float:
        return 1000 * sorted(late)[int(part * (len(late) - 1))]

    wanted = f"<= {1000 * most_s:.0f}" if bar else ""
    return [
        Row(f"{name}: ping, median", at(0.5), "ms", wanted),
        Row(f"{name}: ping, 95 %", at(0.95), "ms", wanted, f"longest {at(1):.0f}"),
        Row(f"{name}: ping in the first {SETTLED_S:.0f} s, longest", 1000 * max(early), "ms"),
    ]


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--rate", type=float, default=20.0, help="Mbit/s, of the home's uplink")
    made.add_argument("--rtt", type=float, default=50.0, help="ms, to server and player")
    made.add_argument("--seconds", type=float, default=60.0, help="of each upload")
    given = made.parse_args()
    if reason := missing():
        print(f"leave_room.py cannot run here: {reason}.")
        return 2
    far = given.rtt / 4
    uplinks = [Uplink(given.rate, far, QUEUE_S), Uplink(None, far), Uplink(None, far)]
    with netted(uplinks) as net, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "update"
        file.write_bytes(os.urandom(FILE_BYTES))
        base_s = measured_rtt_ms(net.sites[0], net.sites[2]) / 1000
        sink = net.sites[1].run(lambda: ThreadingHTTPServer((net.sites[1].address, PORT), Sink))
        serving = threading.Thread(target=sink.serve_forever, daemon=True)
        serving.start()
        greedy = measured(net, file, given.seconds, False)
        polite = measured(net, file, given.seconds, True)
        sink.shutdown()
    most_s = 2 * base_s + FLOOR_S
    rows = [
        Row("ping without load", 1000 * base_s, "ms", "", f"{given.rate:g} Mbit/s up, queue 300 ms"),
        *rows_of("room is left", *polite[:2], most_s, True),
        *rows_of("all is taken", *greedy[:2], most_s, False),
        Row("room is left: upload", polite[2] * 8e-6, "Mbit/s"),
        Row("all is taken: upload", greedy[2] * 8e-6, "Mbit/s"),
        Row("lost of the upload by leaving room", 100 * (1 - polite[2] / greedy[2]), "%", "<= 20"),
        Row("load", os.getloadavg()[0], "", "", f"{os.cpu_count()} cores"),
    ]
    return show("room on a shared line", rows, given.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--upload"]:
        end_with_parent()
        asyncio.run(upload(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]), sys.argv[5] == "True"))
    else:
        sys.exit(main())
