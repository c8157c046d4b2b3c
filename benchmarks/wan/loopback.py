"""All computers on one: addresses of the loopback, and the kernel's counts of what their sockets carried; without root.

A connection's own address tells its server; every caller calls from 127.0.0.1, so who called is not known.
"""

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from wan.network import Carried

T = TypeVar("T")
LOOK_S = 0.2  # a connection that lives for less is missed
SERVER, OBSERVER = "127.0.0.1", "127.0.0.200"
_LINE = re.compile(r"\s*\d+\s+\d+\s+(\S+):(\d+)\s+(\S+):(\d+)\s(.*)")


def missing() -> str:
    """What keeps this machine from it; empty: nothing."""
    if sys.platform != "linux":
        return "only Linux answers at all addresses of 127.0.0.0/8"
    return "" if shutil.which("ss") else "the command ss is missing: install iproute2"


class Loopback:
    """See `runs.Stage`. What is carried is what programs give to sockets and take from them, TLS included."""

    observer = OBSERVER
    tells_callers = False

    def __init__(self, workers: int) -> None:
        self.addresses = [*(f"127.0.0.{place}" for place in range(2, workers + 2)), SERVER]
        self.worker_port, self.server_port = _free_ports()
        self._known: dict[tuple[str, int, str, int], tuple[int, int]] = {}
        self._looking = threading.Lock()

    def command(self, place: int, program: Sequence[str]) -> tuple[str, ...]:
        return tuple(program)

    def beside_server(self, call: Callable[[], T]) -> T:
        return call()

    def carried(self) -> list[Carried]:
        self.look()
        both = []
        for (here, port, caller, its_port), (received, sent) in self._known.items():
            both.append(Carried(caller, here, its_port, port, received))
            both.append(Carried(here, caller, port, its_port, sent))
        return both

    def look(self) -> None:
        """At the connections that there are, from the side that was called."""
        ports = f"( sport = :{self.worker_port} or sport = :{self.server_port} )"
        with self._looking:
            shown = subprocess.run(
                ["ss", "-tinHO", "state", "established", ports], check=True, capture_output=True, text=True
            )
            for line in shown.stdout.splitlines():
                if found := _LINE.match(line):
                    here, port, caller, its_port, facts = found.groups()
                    if _plain(caller) != OBSERVER:
                        key = (_plain(here), int(port), _plain(caller), int(its_port))
                        self._known[key] = _fact(facts, "bytes_received"), _fact(facts, "bytes_acked")


@contextlib.contextmanager
def looped(workers: int) -> Iterator[Loopback]:
    """Looks every moment: connections that are closed count too."""
    loopback, over = Loopback(workers), threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_S):
            loopback.look()

    watcher = threading.Thread(target=watch, name="watch", daemon=True)
    watcher.start()
    try:
        yield loopback
    finally:
        over.set()
        watcher.join()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for bound in (one, other):
            bound.bind(("", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _plain(address: str) -> str:
    return address.strip("[]").removeprefix("::ffff:")


def _fact(facts: str, name: str) -> int:
    found = re.search(rf"\b{name}:(\d+)", facts)
    return int(found[1]) if found else 0
