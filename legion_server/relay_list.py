"""Relays for the operator: a table, and which one a name means."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import TypeAdapter
from rich.table import Column, Table

from legion.errors import NotFound, Unusable
from legion.relaying import RelayState

_RELAYS: TypeAdapter[tuple[RelayState, ...]] = TypeAdapter(tuple[RelayState, ...])


def parsed(reply: bytes) -> tuple[RelayState, ...]:
    return _RELAYS.validate_json(reply)


def table(relays: Sequence[RelayState]) -> Table:
    whole = Column("relay", no_wrap=True, min_width=32)  # of two with one name, `remove` wants the id
    found = Table(whole, "name", "state", "address", "workers", "load", "certificate until", "last heard")
    for relay in relays:
        address = f"{relay.endpoint.host}:{relay.endpoint.port}" if relay.endpoint else ""
        load = f"{relay.load.bytes_per_s * 8 / 1e6:.1f} Mbit/s ({relay.load.share:.0%})" if relay.alive else ""
        workers = str(relay.load.workers) if relay.alive else ""
        until = _time(relay.certificate_until, "%d %b %Y") if relay.certificate_until else "not known yet"
        heard = _time(relay.last_seen, "%d %b %H:%M:%S") if relay.last_seen is not None else "not yet"
        found.add_row(relay.relay_id, relay.name, _state(relay), address, workers, load, until, heard)
    return found


def named(relays: Sequence[RelayState], name: str) -> RelayState:
    """The relay with this id or name. NotFound, and Unusable where several have the name."""
    found = [relay for relay in relays if relay.relay_id == name] or [relay for relay in relays if relay.name == name]
    if not found:
        raise NotFound(f"no relay {name} has enrolled", hint="'legion-server relays' lists them.")
    if len(found) > 1:
        ids = ", ".join(relay.relay_id for relay in found)
        raise Unusable(f"{len(found)} relays are called {name}: {ids}", hint="Name the one that you mean by its id.")
    return found[0]


def _state(relay: RelayState) -> str:
    if relay.problem is not None:
        return relay.problem
    return "alive" if relay.alive else "not heard"


def _time(at_s: float, form: str) -> str:
    return datetime.fromtimestamp(at_s).strftime(form)
