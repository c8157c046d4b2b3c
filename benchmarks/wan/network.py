"""Namespaces joined by the hub, each behind an uplink of a fixed rate. Nothing of it outlives the processes in it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wan.kernel import enter_network, leave_network, open_tun

T = TypeVar("T")
HUB = Path(__file__).with_name("hub.py")
DEVICE = "wan0"


@dataclass(frozen=True, slots=True)
class Site:
    """One namespace."""

    address: str
    descriptor: int  # of the namespace: `kernel.enter_network`

    def run(self, call: Callable[[], T]) -> T:
        """`call()` in a thread that is in the namespace."""
        return _in_thread(lambda: (enter_network(self.descriptor), call())[1])

    def sent_bytes(self) -> int:
        """Through the uplink so far, headers included."""
        command = ["tc", "-s", "-j", "qdisc", "show", "dev", DEVICE]
        shown = self.run(lambda: subprocess.run(command, check=True, capture_output=True))
        return int(json.loads(shown.stdout)[0]["bytes"])


def missing() -> str:
    """What keeps this machine from it; empty: nothing."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "namespaces, TUN devices and traffic control need root: run it with sudo"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing: modprobe tun"
    return next(
        (f"the command {name} is missing: install iproute2" for name in ("ip", "tc") if not shutil.which(name)), ""
    )


@contextlib.contextmanager
def joined(count: int, rate_mbit: float, rtt_ms: float) -> Iterator[Sequence[Site]]:
    """`count` sites, each with `rate_mbit` up, any rate down, and half of `rtt_ms` to any other."""
    with contextlib.ExitStack() as stack:
        sites, devices = [], []
        for place in range(1, count + 1):
            site, device = _in_thread(lambda place=place: _site(f"10.78.0.{place}", rate_mbit))
            stack.callback(os.close, site.descriptor)
            sites.append(site)
            devices.append(device)
        command = [sys.executable, str(HUB), str(rtt_ms / 2), *map(str, devices)]
        hub = stack.enter_context(subprocess.Popen(command, pass_fds=devices, start_new_session=True))
        stack.callback(hub.kill)
        for device in devices:
            os.close(device)
        yield sites


def measured_rtt_ms(here: Site, there: Site, tries: int = 9) -> float:
    """The median of UDP echoes."""
    echo = there.run(lambda: _udp(there.address))
    probe = here.run(lambda: _udp(here.address))
    took = []
    with echo, probe:
        for _ in range(tries):
            started = time.perf_counter()
            probe.sendto(b"?", echo.getsockname())
            echo.sendto(*echo.recvfrom(16))
            probe.recvfrom(16)
            took.append(time.perf_counter() - started)
    return sorted(took)[tries // 2] * 1000


def _udp(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(10)
    made.bind((address, 0))
    return made


def _site(address: str, rate_mbit: float) -> tuple[Site, int]:
    """In a thread of its own, which is in the new namespace from now on."""
    site = Site(address, leave_network())
    device = open_tun(DEVICE)
    os.set_inheritable(device, True)
    for command in (
        "ip link set lo up",
        f"ip addr add {address}/24 dev {DEVICE}",
        f"ip link set {DEVICE} mtu 1500 txqueuelen 5000 up",
        # What most home machines run, whatever this one does.
        f"ip route replace 10.78.0.0/24 dev {DEVICE} src {address} congctl cubic",
        f"tc qdisc add dev {DEVICE} root tbf rate {rate_mbit}mbit burst 64kb latency 300ms",
    ):
        subprocess.run(command.split(), check=True)
    return site, device


def _in_thread(call: Callable[[], T]) -> T:
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:  # noqa: BLE001 - the top of the thread: raised in its starter
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
