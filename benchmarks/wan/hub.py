"""A switch between TUN devices that holds every packet back for a while: the propagation delay of a network.

python hub.py ONE_WAY_MS DESCRIPTOR ...    (the i-th descriptor is the TUN of 10.78.0.i)
"""

import contextlib
import os
import select
import sys
import time
from collections import deque

from kernel import VNET_HEADER_BYTES, end_with_parent

LARGEST = 1 << 17
AT_ONCE = 32  # packets from one device before the others have their turn
DESTINATION = slice(VNET_HEADER_BYTES + 16, VNET_HEADER_BYTES + 20)


def switch(delay_s: float, devices: dict[bytes, int]) -> None:
    """For ever. Every packet waits alike, so they leave in the order in which they came."""
    waiting: deque[tuple[float, int, bytes]] = deque()
    descriptors = list(devices.values())
    while True:
        pause_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select(descriptors, [], [], pause_s)
        for device in readable:
            for _ in range(AT_ONCE):
                try:
                    packet = os.read(device, LARGEST)
                except BlockingIOError:
                    break
                target = devices.get(packet[DESTINATION])
                if target is not None:
                    waiting.append((time.monotonic() + delay_s, target, packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, target, packet = waiting.popleft()
            os.write(target, packet)


if __name__ == "__main__":
    end_with_parent()
    # A network does not wait for a CPU that those who use it keep busy. Root may be denied it in a container.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    switch(
        float(sys.argv[1]) / 1000,
        {bytes([10, 78, 0, place]): int(number) for place, number in enumerate(sys.argv[2:], start=1)},
    )
