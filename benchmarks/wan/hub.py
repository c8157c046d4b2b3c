"""A switch between TUN devices that holds every packet back for a while: the propagation delay of a network.

python hub.py DESCRIPTOR:MS[:BYTES_PER_S:QUEUE_S] ...    (the i-th descriptor is the TUN of 10.78.0.i, which is so far
from the hub, and may stand behind a router of that rate up, which drops what would wait longer in its queue)

Every line on standard input is answered with a JSON line: what has been carried so far, as lists of source, target,
their ports, and bytes on the wire from the IP header on.
"""

import contextlib
import heapq
import itertools
import json
import os
import select
import socket
import struct
import sys
import time
from collections import Counter
from typing import NamedTuple

from kernel import VNET_HEADER_BYTES, end_with_parent

LARGEST = 1 << 17
AT_ONCE = 32  # packets from one device before the others have their turn
DESTINATION = slice(VNET_HEADER_BYTES + 16, VNET_HEADER_BYTES + 20)
# In the header before a packet: whether it is many segments, and how long each of them is.
BATCH_TYPE, BATCH_BYTES = 1, slice(4, 6)
TCP = 6

Carried = Counter[tuple[bytes, bytes, int, int]]


def count(packet: bytes, carried: Carried) -> None:
    """A batch of segments counts as the packets that a real device makes of it."""
    start = VNET_HEADER_BYTES
    ip_bytes = 4 * (packet[start] & 15)
    ports = struct.unpack_from("!HH", packet, start + ip_bytes)
    size = len(packet) - start
    if packet[BATCH_TYPE] and packet[start + 9] == TCP:
        headers = ip_bytes + 4 * (packet[start + ip_bytes + 12] >> 4)
        each = int.from_bytes(packet[BATCH_BYTES], sys.byteorder)
        size += (-(-(size - headers) // each) - 1) * headers
    carried[packet[start + 12 : start + 16], packet[DESTINATION], *ports] += size


def answer(carried: Carried) -> None:
    found = [(socket.inet_ntoa(a), socket.inet_ntoa(b), *rest, size) for (a, b, *rest), size in carried.items()]
    print(json.dumps(found), flush=True)


class Port(NamedTuple):
    """A site's device and its distance."""

    descriptor: int
    delay_s: float
    bytes_per_s: float = float("inf")
    queue_s: float = 0.0


def switch(ports: dict[bytes, Port]) -> None:
    """For ever. Packets between two sites leave in the order in which they came."""
    waiting: list[tuple[float, int, int, bytes]] = []
    serial = itertools.count()
    carried: Carried = Counter()
    questions = sys.stdin.fileno()
    sources = {port.descriptor: port for port in ports.values()}
    idle_at = dict.fromkeys(sources, 0.0)  # of each router, when all that waits has left
    descriptors = [questions, *sources]
    while True:
        pause_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select(descriptors, [], [], pause_s)
        if questions in readable:
            readable.remove(questions)
            if os.read(questions, LARGEST):
                answer(carried)
            else:
                descriptors.remove(questions)
        for device in readable:
            for _ in range(AT_ONCE):
                try:
                    packet = os.read(device, LARGEST)
                except BlockingIOError:
                    break
                target = ports.get(packet[DESTINATION])
                source, now = sources[device], time.monotonic()
                leaves = max(now, idle_at[device])
                if target is None or leaves - now > source.queue_s:
                    continue
                count(packet, carried)
                idle_at[device] = leaves + (len(packet) - VNET_HEADER_BYTES) / source.bytes_per_s
                due = idle_at[device] + source.delay_s + target.delay_s
                heapq.heappush(waiting, (due, next(serial), target.descriptor, packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, descriptor, packet = heapq.heappop(waiting)
            os.write(descriptor, packet)


def port_of(argument: str) -> Port:
    descriptor, delay_ms, *router = argument.split(":")
    return Port(int(descriptor), float(delay_ms) / 1000, *map(float, router))


if __name__ == "__main__":
    end_with_parent()
    # A network does not wait for a CPU that those who use it keep busy. Root may be denied it in a container.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    switch({bytes([10, 78, 0, place]): port_of(argument) for place, argument in enumerate(sys.argv[1:], start=1)})
