"""Where the server may look for a worker. Pure.

A worker names a host and a port, and is told whether somebody is there: without limits that would let it feel its way
through the networks that the server is in. So nothing is dialled but public addresses, and the one that the worker's
own request comes from.
"""

from collections.abc import Iterable
from ipaddress import ip_address

EVERYWHERE = ("0.0.0.0", "::")


def hosts(announced: str, seen: str) -> tuple[str, ...]:
    """To be tried, in this order: what the worker says of itself, and where it was seen."""
    return (seen,) if announced in (*EVERYWHERE, seen) else (announced, seen)


def allowed(addresses: Iterable[str], seen: str) -> list[str]:
    """Of those that a host's name stands for."""
    return [address for address in addresses if address == seen or _is_public(address)]


def _is_public(address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False  # an address with a zone is one of this machine's own networks
    return found.is_global and not found.is_multicast
