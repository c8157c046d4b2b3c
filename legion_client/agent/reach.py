"""How other members reach this computer: directly, through a port that a router maps, or through a relay.

The server says whether it can reach us. Where it cannot, a relay's address is announced for ours, and the connection to
that relay is kept for as long as the program runs; when the relay dies, another takes its place.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ValidationError

from legion.errors import LegionError
from legion.identity import mutual_client_context
from legion.ids import RelayId
from legion.messages import Endpoint
from legion.relaying import ReachReply, RelayView, new_nonce
from legion_client.agent.backoff import pauses, persistently
from legion_client.agent.port_mapping import NOT_ASKED, PortMapping
from legion_client.agent.relayed import Over, hold
from legion_client.agent.relays import Measured, choose, measure
from legion_client.machine.volume import write_whole
from legion_client.settings import Network

logger = logging.getLogger(__name__)

EVERYWHERE = ("0.0.0.0", "::")
FIRST_RELAY_S = 15.0  # for a relay to take us; after that we are ready without one
AGAIN_S = 30.0  # without a relay, between two looks for one
LOOK_AGAIN_S = 1800.0  # whether we are reached as we were
SECOND_LOOK_S = 20.0
ASKED_FOR = "not tried: network.relay is always"
REPLACED_S = 120.0  # after another program took our place with our key: two that fight for it help nobody

How = Literal["untested", "direct", "relay", "unreachable"]


class Reached(BaseModel, frozen=True, extra="forbid"):
    """What was found, for `doctor`."""

    how: How = "untested"
    at: float = 0.0  # s since 1970
    endpoint: Endpoint | None = None  # that others are told
    problem: str = ""  # why not directly
    relay: str = ""  # its name
    rtt_ms: float | None = None  # to the relay
    mapping: str = NOT_ASKED  # what became of the port mapping
    doubled: str = ""  # what the relay or the server said of another program with our key


class Server(Protocol):
    async def reachability(self, endpoint: Endpoint) -> ReachReply: ...

    async def relays(self) -> list[RelayView]: ...


class Reach:
    """`find` for each engine that listens; `serve` as long as there may be one. On the event loop."""

    def __init__(
        self, server: Server, identity: Path, kept: Path, network: Network, on_change: Callable[[], None]
    ) -> None:
        """`identity`: the folder of key and certificate. `kept`: where what was found is written to."""
        self._server = server
        self._identity = identity
        self._kept = kept
        self._network = network
        self._on_change = on_change
        self.instance = new_nonce()  # what others tell this program by from another with our key
        self._told_of = ""  # another, by the server
        self._found = Reached()
        self._engine: Endpoint | None = None  # where it listens, as this computer sees it
        self._tested: tuple[str, int] | None = None
        self._wanted = asyncio.Event()  # a relay
        self._settled = asyncio.Event()  # a relay has taken us, or there is none for now
        self._in_vain = False  # there was none when we looked last
        self._holding: asyncio.Task[Over] | None = None
        self._failed_at: dict[RelayId, float] = {}
        self._known: list[RelayView] = []  # as the server named them last
        self.mapping = PortMapping()

    @property
    def found(self) -> Reached:
        return self._found

    @property
    def endpoint(self) -> Endpoint | None:
        """That others are to be told; None until it is known."""
        return self._found.endpoint

    def tell_of_another(self, doubled: str) -> None:
        """What the server says of another program with our key."""
        if doubled == self._told_of:
            return
        self._told_of = doubled
        if doubled:
            logger.warning("this computer's identity is used twice: %s", doubled)
        self._told(doubled=doubled)

    async def find(self, host: str, port: int) -> None:
        """Returns once it is known how the engine that listens there is reached. `host`: that we would announce."""
        if self._tested == (host, port):
            return
        self._engine = Endpoint(host=host, port=port)
        await self._look(self._engine)
        self._tested = (host, port)

    async def _look(self, engine: Endpoint, *, again: bool = False) -> None:
        problem = ASKED_FOR if self._network.relay == "always" else await self._try_directly(engine)
        if problem is not None and again and self._found.how == "direct":
            await asyncio.sleep(SECOND_LOOK_S)  # one call that failed is no reason to move
            problem = await self._try_directly(engine)
        if problem is None and again:
            self._wanted.clear()  # who follows a plan of before still comes through the relay: it stays while it lives
        elif problem is None:
            self._release()
        elif self._network.relay == "never":
            self._told(how="unreachable", problem=problem, endpoint=engine)
        else:
            self._told(problem=problem)
            await self._await_relay(engine)

    async def _look_again(self) -> None:
        """Routers are set up anew, and laptops carried elsewhere."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            if self._tested is not None and self._engine is not None:
                await self._look(self._engine, again=True)

    async def serve(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_relay())
                tasks.create_task(self._look_again())
                tasks.create_task(self.mapping.keep())
        finally:
            self._release()

    # Directly.

    async def _try_directly(self, engine: Endpoint) -> str | None:
        """None: we are found, or nobody can tell. Else why not."""
        mapped = await self.mapping.open(engine) if self._network.port_mapping else None
        self._told(mapping=self.mapping.state)
        asked = [Endpoint(host=EVERYWHERE[0], port=mapped)] if mapped is not None else []
        problem = ""
        for endpoint in (*asked, engine):
            try:
                reply = await persistently("reachability", self._server.reachability, endpoint)
            except LegionError as error:
                logger.info("reachability not tested reason=%s", error)
                self._told(how="untested", endpoint=engine, problem=str(error))
                return None
            if reply.endpoint is not None:
                self._told(how="direct", endpoint=reply.endpoint, problem="", relay="", rtt_ms=None)
                return None
            problem = reply.problem
        return problem

    # By a relay.

    async def _await_relay(self, engine: Endpoint) -> None:
        if self._found.how != "relay":
            if not self._in_vain:  # else the next look comes of itself, and another engine need not wait for it
                self._settled.clear()
            self._told(how="unreachable")
        self._wanted.set()
        try:
            async with asyncio.timeout(FIRST_RELAY_S):
                await self._settled.wait()
        except TimeoutError:
            logger.warning("no relay yet")
        if self._found.endpoint is None:
            self._told(endpoint=engine)  # who is near may reach us all the same

    async def _keep_relay(self) -> None:
        waits = pauses()
        while True:
            await self._wanted.wait()
            chosen = await self._choose()
            self._in_vain = chosen is None
            if chosen is None:
                self._told(how="unreachable", relay="", rtt_ms=None)
                self._settled.set()
                await asyncio.sleep(AGAIN_S)
                continue
            over = await self._hold(chosen)
            if over is None:
                continue  # nobody wants a relay any more
            self._failed_at[chosen.relay.relay_id] = time.monotonic()
            logger.warning("relay lost relay=%s reason=%s", chosen.relay.name, over.reason)
            if not self._wanted.is_set():
                continue
            if over.replaced:
                self._told(doubled=over.reason)
                await asyncio.sleep(REPLACED_S)
            if over.welcomed:
                waits = pauses()
            else:
                await asyncio.sleep(next(waits))

    async def _choose(self) -> Measured | None:
        try:
            self._known = await self._server.relays()
        except LegionError as error:
            # Relays outlive an outage of the server; those that it named last may still be there.
            logger.warning("relays not listed reason=%s", error)
        return choose(await measure(self._known), self._failed_at, time.monotonic())

    async def _hold(self, chosen: Measured) -> Over | None:
        relay = chosen.relay
        context = await asyncio.to_thread(mutual_client_context, self._identity)
        if not self._wanted.is_set():
            return None

        def welcome() -> None:
            logger.info("relay found relay=%s rtt_ms=%.1f", relay.name, chosen.rtt_ms)
            endpoint = relay.endpoint.model_copy(update={"relayed": True})
            self._told(how="relay", endpoint=endpoint, relay=relay.name, rtt_ms=chosen.rtt_ms)
            self._settled.set()

        self._holding = asyncio.ensure_future(hold(relay, context, self.instance, lambda: self._engine, welcome))
        try:
            await asyncio.wait([self._holding])
            return None if self._holding.cancelled() else self._holding.result()
        finally:
            self._holding.cancel()
            self._holding = None

    def _release(self) -> None:
        self._wanted.clear()
        if self._holding is not None:
            self._holding.cancel()

    def _told(self, **changes: object) -> None:
        before = self._found
        self._found = before.model_copy(update=changes | {"at": time.time()})
        if self._found.model_copy(update={"at": before.at}) == before:
            return
        try:
            write_whole(self._kept, self._found.model_dump_json())
        except OSError as error:
            logger.warning("reachability not kept reason=%s", error.strerror)
        if self._found.endpoint != before.endpoint:
            self._on_change()


def load(kept: Path) -> Reached | None:
    """What was found the last time; None: nothing, or it cannot be read."""
    try:
        return Reached.model_validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        return None
