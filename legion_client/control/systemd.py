"""What a service tells systemd (sd_notify(3)): that it runs, what it does, that it is alive, that it ends.

One datagram of NAME=VALUE lines to the socket that $NOTIFY_SOCKET names; nothing is told where there is none.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Protocol

from legion_client.control.client import Lost
from legion_client.control.messages import Happening, Status

logger = logging.getLogger(__name__)

Changes = AsyncGenerator[Status | Happening | Lost, None]
READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


class Teller(Protocol):
    """Where the lines go."""

    def tell(self, *lines: str) -> None: ...


class Notifier:
    """The socket of the service's manager, if this process is a service that is to tell."""

    def __init__(self, path: str) -> None:
        # "@" stands for Linux's abstract sockets, which have no file.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path

    def tell(self, *lines: str) -> None:
        """Never waits, never fails: a manager that does not listen is no reason to stop training."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as outlet:
                outlet.setblocking(False)
                outlet.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            logger.debug("systemd could not be told reason=%s", error.strerror)


def notifier(environment: Mapping[str, str] = os.environ) -> Notifier | None:
    path = environment.get("NOTIFY_SOCKET", "")
    return Notifier(path) if path[:1] in ("/", "@") and len(path) > 1 else None


def watchdog_s(environment: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """Seconds within which systemd wants a sign of life from this process; None: it does not watch."""
    watched = environment.get("WATCHDOG_PID")
    if watched is not None and watched != str(os.getpid() if pid is None else pid):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() and int(text) > 0 else None


async def keep_alive(teller: Teller, within_s: float) -> None:
    """A sign of life twice in every `within_s`, from this event loop: one that hangs gives none."""
    while True:
        teller.tell(ALIVE)
        await asyncio.sleep(within_s / 2)


async def tell_status(teller: Teller, changes: Changes) -> None:
    """The headline of every status that differs from the one before."""
    told = ""
    async with aclosing(changes):
        async for change in changes:
            if isinstance(change, Status) and change.headline != told:
                told = change.headline
                teller.tell(f"STATUS={' '.join(told.split())}")
