"""What `doctor` says of how others reach this computer: as the agent has found it, or tried now where none runs."""

import asyncio
import time
from pathlib import Path

from legion.check import Check
from legion.errors import LegionError
from legion.identity import mutual_server_context
from legion.messages import Endpoint
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.enrolment import Enrolment
from legion_client.agent.port_mapping import NOT_ASKED
from legion_client.agent.reach import EVERYWHERE, Reached, load
from legion_client.agent.relays import choose, measure
from legion_client.paths import Home
from legion_client.settings import Settings

NAME, MAPPING = "reachability", "port mapping"
TRIAL_S = 30.0
FORWARD = (
    "Training works like this. Faster would be a direct way: choose a listen_port and have your router forward it to "
    "this computer, or let Legion ask the router (network.port_mapping)."
)
NO_RELAY = (
    "Have your router forward a port (listen_port) to this computer, let Legion ask the router "
    "(network.port_mapping), or ask the server's operator for a relay."
)
DOUBLED = "Two computers must not share one identity: join the other with an invite of its own, in a new home."


async def reachability(home: Home, known: Enrolment | None, settings: Settings, *, running: bool) -> list[Check]:
    """Two checks. `running`: the agent does, whose finding is told; nothing else may listen in its place."""
    if known is None:
        return [Check(NAME, "skipped", "no server joined"), Check(MAPPING, "skipped", "no server joined")]
    if running:
        found = await asyncio.to_thread(load, home.reachability)
        if found is None:
            return [Check(NAME, "skipped", "not known before training is prepared"), _mapping(Reached(), settings)]
    else:
        try:
            async with asyncio.timeout(TRIAL_S):
                found = await _tried(home.identity, known, settings)
        except (LegionError, TimeoutError, OSError) as error:
            reason = str(error) or "it took too long"
            return [Check(NAME, "skipped", f"it could not be tried: {reason}"), _mapping(Reached(), settings)]
    return [_reached(found), _mapping(found, settings)]


async def _tried(identity: Path, known: Enrolment, settings: Settings) -> Reached:
    """Listen in the engine's place with this computer's certificate, and have the server look for it."""
    async with Coordinator(known.base_url, known.context, known.worker_id, known.token) as server:
        relays = await server.relays()
        host = settings.listen_host or server.local_host or "127.0.0.1"
        context = await asyncio.to_thread(mutual_server_context, identity)
        listening = await asyncio.start_server(_hang_up, host, settings.listen_port, ssl=context)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            announced = server.local_host if host in EVERYWHERE and server.local_host else host
            reply = await server.reachability(Endpoint(host=announced, port=port))
        if reply.endpoint is not None:
            return Reached(how="direct", at=time.time(), endpoint=reply.endpoint)
        chosen = choose(await measure(relays), {}, time.monotonic())
        if chosen is None:
            return Reached(how="unreachable", at=time.time(), problem=reply.problem)
        return Reached(
            how="relay",
            at=time.time(),
            endpoint=chosen.relay.endpoint,
            problem=reply.problem,
            relay=chosen.relay.name,
            rtt_ms=chosen.rtt_ms,
        )


def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def _reached(found: Reached) -> Check:
    where = f"{found.endpoint.host}:{found.endpoint.port}" if found.endpoint else "nowhere"
    if found.doubled:
        return Check(NAME, "problem", found.doubled, DOUBLED)
    match found.how:
        case "direct":
            return Check(NAME, "ok", f"other members reach this computer directly, at {where}")
        case "relay":
            distance = "" if found.rtt_ms is None else f", {found.rtt_ms:.0f} ms away"
            because = f", because directly they do not: {found.problem}" if found.problem else ""
            return Check(
                NAME, "ok", f"others reach it through the relay {found.relay} ({where}{distance}){because}", FORWARD
            )
        case "unreachable":
            why = found.problem or "the server does not reach this computer"
            return Check(NAME, "problem", f"others may not reach this computer, and there is no relay: {why}", NO_RELAY)
    return Check(NAME, "skipped", f"not tested: {found.problem or 'nothing has listened yet'}")


def _mapping(found: Reached, settings: Settings) -> Check:
    if not settings.network.port_mapping:
        return Check(MAPPING, "skipped", NOT_ASKED)
    if found.mapping == NOT_ASKED:
        return Check(MAPPING, "skipped", "the router is asked once training is prepared")
    return Check(MAPPING, "ok" if found.how == "direct" else "skipped", found.mapping)
