"""Relays that have enrolled, and which of them workers are sent to. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from legion.ids import RelayId
from legion.messages import Endpoint
from legion.relaying import RELAY_GONE_S, RelayHeartbeat, RelayLoad, RelayState, RelayView

RENEW_BEFORE_S = 130 * 86_400  # of a certificate's 397 days: a relay that was off for a season still has its own


@dataclass(frozen=True, slots=True)
class Relay:
    """One enrolled relay, as it last described itself. What has a default is forgotten with the process."""

    relay_id: RelayId
    name: str
    token_sha256: str
    enrolled_at: float  # s since 1970
    certificate_until: float  # s since 1970
    last_seen: float | None = None
    endpoint: Endpoint | None = None
    load: RelayLoad = field(default_factory=RelayLoad)
    problem: str | None = None  # why it was not reached there

    def dial_due(self, endpoint: Endpoint) -> bool:
        """Whether it has to be found whether it can be reached there."""
        return self.endpoint != endpoint or self.problem is not None


def heard(relay: Relay, beat: RelayHeartbeat, problem: str | None, now: float) -> Relay:
    """After its heartbeat, and what the server found when it tried to reach it."""
    return replace(relay, last_seen=now, endpoint=beat.endpoint, load=beat.load, problem=problem)


def renewal_due(relay: Relay, now: float) -> bool:
    return relay.certificate_until - now < RENEW_BEFORE_S


def is_alive(relay: Relay, now: float) -> bool:
    """It is heard, and was reached."""
    heard_now = relay.last_seen is not None and now - relay.last_seen <= RELAY_GONE_S
    return heard_now and relay.endpoint is not None and relay.problem is None


def state(relay: Relay, now: float) -> RelayState:
    return RelayState(
        relay_id=relay.relay_id,
        name=relay.name,
        enrolled_at=relay.enrolled_at,
        certificate_until=relay.certificate_until,
        last_seen=relay.last_seen,
        alive=is_alive(relay, now),
        endpoint=relay.endpoint,
        load=relay.load,
        problem=relay.problem,
    )


def living(relays: Iterable[Relay], now: float) -> tuple[RelayView, ...]:
    """Those that are heard and reached, by id."""
    return tuple(
        RelayView(relay_id=relay.relay_id, name=relay.name, endpoint=relay.endpoint, load=relay.load)
        for relay in sorted(relays, key=lambda relay: relay.relay_id)
        if relay.endpoint is not None and is_alive(relay, now)
    )
