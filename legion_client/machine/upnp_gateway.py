"""UPnP Internet Gateway Device, by miniupnpc, which blocks. A program: one question as its argument, one answer."""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any, TypeVar

from legion_client.machine.mapping import LEASE_S, Mapped, NotMapped

try:
    import miniupnpc
except ImportError:  # the 'upnp' extra is not installed
    miniupnpc = None
try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

DISCOVER_MS = 2000
PORTS = range(20_000, 60_000)
TRIES = 3  # ports: one that another computer has is refused
MOST_BYTES = 512 << 20  # of address space, whatever a router says

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """Without a `host`: close the external port."""

    at: str | None = None
    host: str | None = None
    port: int = 0
    external_port: int | None = None
    lease_s: int = LEASE_S


@dataclass(frozen=True, slots=True)
class Told:
    problem: str | None = None
    external_host: str = ""
    external_port: int | None = None


class Gateway:
    """A router that was found. `at`: its description's URL, where it is known; else it is looked for."""

    def __init__(self, at: str | None = None) -> None:
        if miniupnpc is None:
            raise NotMapped("UPnP needs the 'upnp' extra: pip install 'legion-training[upnp]'")
        self._device: Any = miniupnpc.UPnP()
        self._device.discoverdelay = DISCOVER_MS
        if at is None:
            if not _named("no router answers to UPnP", self._device.discover):
                raise NotMapped("no router answers to UPnP")
            _named("no router opens ports by UPnP", self._device.selectigd)
        else:
            _named("no router opens ports by UPnP", lambda: self._device.selectigd(at))

    def open_port(self, host: str, port: int, external_port: int | None = None, lease_s: int = LEASE_S) -> Mapped:
        """A mapping, made or (at `external_port`) renewed. NotMapped."""
        external = _address(_named("the router does not know its address", self._device.externalipaddress))
        wanted = [external_port] if external_port else [port, *random.sample(PORTS, TRIES - 1)]
        problem: NotMapped | None = None
        for candidate in wanted:
            # 0: some routers know only mappings that last, and take ours for one that is wrong.
            for lease in (lease_s, 0):
                try:
                    self._add(candidate, host, port, lease)
                except NotMapped as error:
                    problem = error
                else:
                    return Mapped("UPnP", external, candidate, host, port)
        assert problem is not None
        raise problem

    def close_port(self, external_port: int) -> None:
        """NotMapped."""
        _named("the router keeps the port open", lambda: self._device.deleteportmapping(external_port, "TCP"))

    def _add(self, external_port: int, host: str, port: int, lease_s: int) -> None:
        def add() -> Any:
            return self._device.addportmapping(external_port, "TCP", host, port, "Legion", "", lease_s)

        _named("the router opens no port by UPnP", add)


def _address(said: object) -> str:
    """Empty for what is none: it goes to people's eyes."""
    try:
        return str(ip_address(str(said)))
    except ValueError:
        return ""


def _named(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:
        raise NotMapped(f"{what} ({error})") from error


def answer(asked: Asked) -> Told:
    try:
        gateway = Gateway(asked.at)
        if asked.host is not None:
            mapped = gateway.open_port(asked.host, asked.port, asked.external_port, asked.lease_s)
            return Told(external_host=mapped.external_host, external_port=mapped.external_port)
        if asked.external_port is not None:
            gateway.close_port(asked.external_port)
    except NotMapped as error:
        return Told(problem=str(error))
    return Told()


if __name__ == "__main__":
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    sys.stdout.write(json.dumps(asdict(answer(Asked(**json.loads(sys.argv[1]))))))
