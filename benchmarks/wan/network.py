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
from typing import NamedTuple, TypeVar

from wan.kernel import enter_network, leave_network, open_tun

T = TypeVar("T")
HUB, ENTER = Path(__file__).with_name("hub.py"), Path(__file__).with_name("enter.py")
DEVICE = "wan0"


@dataclass(frozen=True, slots=True)
class Site:
    """One namespace."""

    address: str
    descriptor: int  # of the namespace: `kernel.enter_network`

    def run(self, call: Callable[[], T]) -> T:
        """`call()` in a thread that is in the namespace."""
        return in_thread(lambda: (enter_network(self.descriptor), call())[1])

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


class Carried(NamedTuple):
    """What went one way between two ports, in bytes on the wire from the IP header on."""

    source: str
    target: str
    source_port: int
    target_port: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Net:
    """Sites, and the hub between them. For `runs`: the last is the server's, and ports are free in every namespace."""

    sites: Sequence[Site]
    hub: "subprocess.Popen[bytes]"
    worker_port: int = 7000
    server_port: int = 8000
    observer: str | None = None  # who looks on does so beside the hub
    tells_callers: bool = True

    @property
    def addresses(self) -> list[str]:
        return [site.address for site in self.sites]

    def command(self, place: int, program: Sequence[str]) -> tuple[str, ...]:
        """That runs the program there, as long as this process has the net."""
        namespace = f"/proc/{os.getpid()}/fd/{self.sites[place].descriptor}"
        return (sys.executable, str(ENTER), namespace, *program)

    def beside_server(self, call: Callable[[], T]) -> T:
        return self.sites[-1].run(call)

    def carried(self) -> list[Carried]:
        """Since the net is there."""
        assert self.hub.stdin is not None
        assert self.hub.stdout is not None
        self.hub.stdin.write(b"\n")
        self.hub.stdin.flush()
        return [Carried(*line) for line in json.loads(self.hub.stdout.readline())]


@dataclass(frozen=True, slots=True)
class Uplink:
    """A site's. Its rate down is the machine's."""

    rate_mbit: float | None  # up; None: the machine's too
    delay_ms: float  # to the hub, and as much from there
    queue_s: float | None = None  # of a router that has the rate; None: the site itself has it, and its TCP knows

    @property
    def own_rate_mbit(self) -> float | None:
        return self.rate_mbit if self.queue_s is None else None

    @property
    def port(self) -> str:
        """As the hub takes it, after the descriptor."""
        if self.rate_mbit is None or self.queue_s is None:
            return f"{self.delay_ms}"
        return f"{self.delay_ms}:{self.rate_mbit * 125_000}:{self.queue_s}"


@contextlib.contextmanager
def joined(count: int, rate_mbit: float, rtt_ms: float) -> Iterator[Sequence[Site]]:
    """`count` sites, each with `rate_mbit` up, any rate down, and half of `rtt_ms` to any other."""
    with netted([Uplink(rate_mbit, rtt_ms / 4)] * count) as net:
        yield net.sites


@contextlib.contextmanager
def netted(uplinks: Sequence[Uplink]) -> Iterator[Net]:
    """A site for each, at 10.78.0.1 and on."""
    with contextlib.ExitStack() as stack:
        sites, devices = [], []
        for place, uplink in enumerate(uplinks, start=1):
            site, device = in_thread(lambda place=place, rate=uplink.own_rate_mbit: _site(f"10.78.0.{place}", rate))
            stack.callback(os.close, site.descriptor)
            sites.append(site)
            devices.append(device)
        ports = [f"{device}:{uplink.port}" for device, uplink in zip(devices, uplinks, strict=True)]
        command, pipe = [sys.executable, str(HUB), *ports], subprocess.PIPE
        hub = subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=devices, start_new_session=True)
        stack.enter_context(hub)
        stack.callback(hub.kill)
        for device in devices:
            os.close(device)
        yield Net(sites, hub)


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


def _site(address: str, rate_mbit: float | None) -> tuple[Site, int]:
    """In a thread of its own, which is in the new namespace from now on."""
    site = Site(address, leave_network())
    device = open_tun(DEVICE)
    os.set_inheritable(device, True)
    commands = [
        "ip link set lo up",
        f"ip addr add {address}/24 dev {DEVICE}",
        f"ip link set {DEVICE} mtu 1500 txqueuelen 5000 up",
        # What most home machines run, whatever this one does.
        f"ip route replace 10.78.0.0/24 dev {DEVICE} src {address} congctl cubic",
    ]
    if rate_mbit is not None:
        commands.append(f"tc qdisc add dev {DEVICE} root tbf rate {rate_mbit}mbit burst 64kb latency 300ms")
    for command in commands:
        subprocess.run(command.split(), check=True)
    return site, device


def in_thread(call: Callable[[], T]) -> T:
    """A network is entered by a thread, for good."""
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
