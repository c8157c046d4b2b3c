"""What the two ways to ask a router for a port have in common."""

from dataclasses import dataclass

LEASE_S = 3600  # so long a router keeps what nobody renews


class NotMapped(Exception):
    """No router does it this way; says why."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A port of the router's that leads here."""

    how: str
    external_host: str  # as the router knows it: its provider may know another
    external_port: int
    internal_host: str
    internal_port: int
