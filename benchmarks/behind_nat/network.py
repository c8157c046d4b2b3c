"""A public network with a server and a relay, workers in it, and workers behind routers that masquerade.

Namespaces joined by veth pairs and a bridge; they have no names, and end with this process and those in them.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wan.kernel import enter_network, leave_network
from wan.network import in_thread

T = TypeVar("T")
ENTER = Path(__file__).parents[1] / "wan" / "enter.py"
NETWORK = "203.0.113"  # TEST-NET-3, RFC 5737: public, and nobody's
HOME = "192.168.1"  # the same behind every router
WAN, LAN = "wan0", "lan0"
# What a home router does: no connection is brought in, whatever is known of those that were made from inside.
ROUTER = (
    f"iptables -t nat -A POSTROUTING -o {WAN} -j MASQUERADE",
    "iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    f"iptables -A FORWARD -i {WAN} -j DROP",
    "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    f"iptables -A INPUT -i {WAN} -j DROP",
)


def missing() -> str:
    """What keeps this machine from it; empty: nothing."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "namespaces and masquerading need root: run it with sudo"
    packages = {"ip": "iproute2", "tc": "iproute2", "iptables": "iptables", "tcpdump": "tcpdump"}
    return next((f"the command {c} is missing: install {p}" for c, p in packages.items() if not shutil.which(c)), "")


@dataclass(frozen=True, slots=True)
class Place:
    """One namespace. `public`: where others see it come from."""

    name: str
    address: str
    public: str
    descriptor: int

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def run(self, call: Callable[[], T]) -> T:
        """`call()` in a thread that is in the namespace."""
        return in_thread(lambda: (enter_network(self.descriptor), call())[1])

    def command(self, program: Sequence[str]) -> list[str]:
        """That runs the program there."""
        return [sys.executable, str(ENTER), self.path, *program]

    def configure(self, *commands: str) -> None:
        def run_all() -> None:
            for command in commands:
                subprocess.run(command.split(), check=True)

        self.run(run_all)

    def shape(self, device: str, rate_mbit: float) -> None:
        self.configure(f"tc qdisc add dev {device} root tbf rate {rate_mbit}mbit burst 64kb latency 300ms")


@dataclass(frozen=True, slots=True)
class Internet:
    """`workers`: the first two with public addresses, the others each behind a router of their own."""

    server: Place
    relay: Place
    workers: tuple[Place, ...]


@contextlib.contextmanager
def internet(rate_mbit: float) -> Iterator[Internet]:
    """Every worker and the relay have `rate_mbit` in each direction."""
    with contextlib.ExitStack() as stack:

        def place(name: str, address: str, public: str = "") -> Place:
            made = Place(name, address, public or address, in_thread(leave_network))
            stack.callback(os.close, made.descriptor)
            made.configure("ip link set lo up")
            return made

        middle = place("middle", "")
        middle.configure("ip link add br0 type bridge", "ip link set br0 up")

        def attach(who: Place, rate: float | None) -> None:
            port = f"v-{who.name}"
            middle.configure(
                f"ip link add {port} type veth peer name {WAN} netns {who.path}",
                f"ip link set {port} master br0",
                f"ip link set {port} up",
            )
            who.configure(f"ip addr add {who.public}/24 dev {WAN}", f"ip link set {WAN} up")
            if rate is not None:
                middle.shape(port, rate)
                who.shape(WAN, rate)

        server, relay = place("server", f"{NETWORK}.1"), place("relay", f"{NETWORK}.2")
        attach(server, None)
        attach(relay, rate_mbit)
        workers = [place(f"w{n}", f"{NETWORK}.1{n}") for n in (1, 2)]
        for worker in workers:
            attach(worker, rate_mbit)
        for n in (3, 4):
            router = place(f"r{n}", f"{NETWORK}.1{n}")
            attach(router, rate_mbit)
            workers.append(place(f"w{n}", f"{HOME}.2", router.public))
            _behind(router, workers[-1])
        yield Internet(server, relay, tuple(workers))


def _behind(router: Place, worker: Place) -> None:
    router.configure(
        f"ip link add {LAN} type veth peer name {WAN} netns {worker.path}",
        f"ip addr add {HOME}.1/24 dev {LAN}",
        f"ip link set {LAN} up",
        "sysctl -q -w net.ipv4.ip_forward=1",
        *ROUTER,
    )
    worker.configure(
        f"ip addr add {HOME}.2/24 dev {WAN}", f"ip link set {WAN} up", f"ip route add default via {HOME}.1"
    )
