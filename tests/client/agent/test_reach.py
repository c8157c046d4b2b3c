"""How a worker is reached: real relays on loopback; the server's answers are the test's."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identities import issue
from relay_of_tests import Running, running, until

from legion.errors import NotFound, ServerUnreachable
from legion.identity import Identity, mutual_client_context
from legion.ids import RelayId, host_name
from legion.messages import Endpoint
from legion.relaying import ReachReply, RelayLoad, RelayView
from legion_client.agent import reach
from legion_client.agent.reach import Reach, load
from legion_client.agent.relays import AVOID_S, FULL, Measured, choose
from legion_client.settings import Network

PORT = 4000  # nobody listens there, and nobody has to


@dataclass
class Answers:
    """The server's."""

    reached: Endpoint | None = None
    problem: str = "nobody there"
    views: list[RelayView] = field(default_factory=list)
    asked: list[Endpoint] = field(default_factory=list)
    away: bool = False
    is_old: bool = False

    async def reachability(self, endpoint: Endpoint) -> ReachReply:
        if self.is_old:
            raise NotFound("no such route")
        self.asked.append(endpoint)
        return ReachReply(endpoint=self.reached, seen_host="203.0.113.7", problem=self.problem)

    async def relays(self) -> list[RelayView]:
        if self.away:
            raise ServerUnreachable("the server is away")
        return self.views


@dataclass
class Worker:
    reach: Reach
    identity: Identity
    kept: Path
    changes: list[Endpoint | None]


@contextlib.asynccontextmanager
async def worker(folder: Path, answers: Answers, **settings: object) -> AsyncIterator[Worker]:
    (identity,) = issue(folder, 1)
    place, kept = folder / identity.worker_id, folder / f"{identity.worker_id}.json"
    identity.save(place)
    changes: list[Endpoint | None] = []
    found = Reach(answers, place, kept, Network.model_validate(settings), lambda: changes.append(found.endpoint))
    serving = asyncio.ensure_future(found.serve())
    try:
        yield Worker(found, identity, kept, changes)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_worker_that_the_server_finds_is_direct(tmp_path: Path) -> None:
    there = Endpoint(host="203.0.113.7", port=PORT)
    async with worker(tmp_path, Answers(there)) as me:
        assert me.reach.endpoint is None
        await me.reach.find("192.168.1.5", PORT)
        assert (me.reach.found.how, me.reach.endpoint, me.changes) == ("direct", there, [there])
        assert load(me.kept) == me.reach.found


@pytest.mark.parametrize("answers", [Answers(is_old=True), Answers(problem="no way")])
async def test_without_a_test_or_a_relay_the_own_address_is_told(tmp_path: Path, answers: Answers) -> None:
    async with worker(tmp_path, answers) as me:
        await me.reach.find("192.168.1.5", PORT)
        assert me.reach.endpoint == Endpoint(host="192.168.1.5", port=PORT)
        assert me.reach.found.how == ("untested" if answers.is_old else "unreachable")


async def test_never_through_a_relay(tmp_path: Path) -> None:
    async with running(tmp_path) as relay, worker(tmp_path, Answers(views=[relay.view]), relay="never") as me:
        await me.reach.find("192.168.1.5", PORT)
        assert me.reach.endpoint == Endpoint(host="192.168.1.5", port=PORT)
        assert relay.routes.seats == {}


async def test_always_through_a_relay(tmp_path: Path) -> None:
    answers = Answers(Endpoint(host="203.0.113.7", port=PORT))
    async with running(tmp_path) as relay, worker(tmp_path, answers, relay="always") as me:
        answers.views = [relay.view]
        await me.reach.find("127.0.0.1", PORT)
        assert (me.reach.found.how, answers.asked) == ("relay", [])


async def test_a_relay_in_the_workers_place(tmp_path: Path) -> None:
    """Callers come through to what listens here; once the worker is reached directly, the relay is let go."""
    async with running(tmp_path) as relay, worker(tmp_path, Answers(views=[relay.view])) as me:
        greeted = asyncio.Event()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            greeted.set()
            writer.close()

        engine = await asyncio.start_server(greet, "127.0.0.1", 0)
        async with engine:
            await me.reach.find("127.0.0.1", engine.sockets[0].getsockname()[1])
            assert me.reach.endpoint == relay.endpoint.model_copy(update={"relayed": True})
            assert me.reach.found.problem == "nobody there"
            calling = asyncio.ensure_future(call(relay, me.identity))
            await greeted.wait()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await calling
        me.reach._server.reached = Endpoint(host="203.0.113.7", port=1)  # type: ignore[attr-defined]
        await me.reach.find("127.0.0.1", PORT)
        assert me.reach.found.how == "direct"
        await until(lambda: not relay.routes.seats)


async def call(relay: Running, target: Identity) -> None:
    context = mutual_client_context(relay.worker_folder(target))
    name = host_name(target.worker_id)
    await asyncio.open_connection(relay.endpoint.host, relay.endpoint.port, ssl=context, server_hostname=name)


async def test_when_a_relay_dies_another_takes_its_place_also_while_the_server_is_away(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(running(tmp_path)) for _ in range(2)]
        answers = Answers(views=[relay.view for relay in relays])
        me = await stack.enter_async_context(worker(tmp_path, answers))
        await me.reach.find("127.0.0.1", PORT)
        (first,) = [relay for relay in relays if relay.routes.seats]
        (second,) = [relay for relay in relays if relay is not first]
        answers.away = True
        first.end()
        await until(lambda: bool(second.routes.seats))
        await until(lambda: len(me.changes) == 2)
        assert [change.port for change in me.changes if change] == [first.endpoint.port, second.endpoint.port]
        assert me.reach.found.relay == second.view.name


async def test_another_program_with_our_key_is_told_of_and_not_fought(tmp_path: Path) -> None:
    async with running(tmp_path) as relay, worker(tmp_path, Answers(views=[relay.view])) as me:
        await me.reach.find("127.0.0.1", PORT)
        async with relay.holding(me.identity, None) as other:
            await until(lambda: bool(me.reach.found.doubled))
            assert "same key" in me.reach.found.doubled
            assert not other.done()


async def test_the_same_engine_is_looked_for_again_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(Endpoint(host="203.0.113.7", port=PORT))
    monkeypatch.setattr(reach, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(reach, "SECOND_LOOK_S", 0.01)
    async with running(tmp_path) as relay, worker(tmp_path, answers) as me:
        await me.reach.find("192.168.1.5", PORT)
        answers.views = [relay.view]
        answers.reached = None
        await until(lambda: me.reach.found.how == "relay")
        answers.reached = Endpoint(host="203.0.113.7", port=PORT)
        await until(lambda: me.reach.found.how == "direct")
        assert len(relay.routes.seats) == 1  # for those whose plan is of before


def view(name: str, share: float = 0.0) -> RelayView:
    endpoint = Endpoint(host="127.0.0.1", port=1)
    return RelayView(relay_id=RelayId(name * 32), name=name, endpoint=endpoint, load=RelayLoad(share=share))


RELAYS = st.lists(
    st.builds(
        Measured,
        st.builds(view, st.sampled_from("abcdefgh"), st.floats(0, 1)),
        st.none() | st.floats(0.1, 400),
    ),
    unique_by=lambda found: found.relay.relay_id,
)


@given(RELAYS, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order(relays: list[Measured], random: object) -> None:
    chosen = choose(relays, {}, 0.0)
    shuffled = list(relays)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(shuffled, {}, 0.0) == chosen
    assert (chosen is None) is all(found.rtt_ms is None for found in relays)
    if chosen is not None and chosen.relay.load.share >= FULL:
        assert all(found.relay.load.share >= FULL for found in relays if found.rtt_ms is not None)


def test_the_nearest_that_has_room_and_has_not_failed() -> None:
    near, far, full = Measured(view("a"), 20.0), Measured(view("b"), 60.0), Measured(view("c", 0.95), 1.0)
    assert choose([far, full, near], {}, 0.0) == near
    assert choose([far, full, near], {near.relay.relay_id: 0.0}, AVOID_S / 2) == far
    assert choose([far, full, near], {near.relay.relay_id: 0.0}, AVOID_S) == near
    assert choose([full, Measured(view("d"), None)], {}, 0.0) == full
    busy = Measured(view("a", 0.5), 20.0)
    assert choose([busy, Measured(view("b", 0.1), 21.0)], {}, 0.0) != busy
