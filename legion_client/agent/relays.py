"""Which relay to register at: the nearest that is alive and not full. Choosing is pure, measuring is not."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from legion.ids import RelayId
from legion.relaying import RelayView

FULL = 0.9  # of what it may carry: then it is only for those who have no other
NEAR_MS = 5.0  # a difference in round trips that is none: there the load decides
AVOID_S = 60.0  # after a relay has failed us
CONNECTS = 3  # the quickest counts: what is slower than the line was held up by something else
CONNECT_S = 3.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A relay and the round trip to it; None: it cannot be reached from here."""

    relay: RelayView
    rtt_ms: float | None


def choose(relays: Sequence[Measured], failed_at: Mapping[RelayId, float], now: float) -> Measured | None:
    """None where there is none to be reached. One that failed lately comes after all others."""

    def order(found: Measured) -> tuple[bool, bool, int, float, RelayId]:
        relay, rtt_ms = found.relay, found.rtt_ms or 0.0
        fails = now - failed_at.get(relay.relay_id, -math.inf) < AVOID_S
        return (fails, relay.load.share >= FULL, int(rtt_ms / NEAR_MS), relay.load.share, relay.relay_id)

    return min((found for found in relays if found.rtt_ms is not None), key=order, default=None)


async def measure(relays: Sequence[RelayView]) -> list[Measured]:
    """Round trips of TCP, all relays side by side."""
    return list(await asyncio.gather(*(_measured(relay) for relay in relays)))


async def _measured(relay: RelayView) -> Measured:
    """The first that fails is the last: who waits for a dead relay's other tries keeps its cluster waiting."""
    took_ms: list[float] = []
    for _ in range(CONNECTS):
        took = await _connect_ms(relay)
        if took is None:
            return Measured(relay, None)
        took_ms.append(took)
    return Measured(relay, min(took_ms))


async def _connect_ms(relay: RelayView) -> float | None:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(relay.endpoint.host, relay.endpoint.port)
    except (OSError, TimeoutError):
        return None
    writer.transport.abort()
    return (time.perf_counter() - began) * 1000
