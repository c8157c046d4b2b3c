"""How long a call to another member may take, when it is tried again, and what its end means."""

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest
from tls_members import endpoints_of, listening

from legion.comm import peers
from legion.comm.api import Batches
from legion.comm.patience import SILENT_S, Pace
from legion.comm.peers import peer_error
from legion.errors import LegionError, NotFinite, PartInvalid, PeerError, PeerLost, PeerRefused, StepAborted
from legion.ids import Rank
from legion.messages import Endpoint


def test_a_deadline_grows_with_the_size_and_with_slow_measurements() -> None:
    pace = Pace()
    sizes = (0, 1 << 16, 1 << 20, 1 << 26, 1 << 30)
    deadlines = [pace.deadline_s(size) for size in sizes]
    assert deadlines == sorted(set(deadlines))
    assert deadlines[0] == 10.0
    fast = Pace()
    for _ in range(20):
        fast.measured(100 << 20, 1.0)
    slow = Pace()
    for _ in range(20):
        slow.measured(1 << 20, 100.0)
    assert all(fast.deadline_s(size) < pace.deadline_s(size) < slow.deadline_s(size) for size in sizes[1:])
    # Ten times what the transfer would take, once the average has settled.
    assert fast.deadline_s(100 << 20) == pytest.approx(10 + 10 * 1.0, rel=0.1)
    assert slow.deadline_s(1 << 20) == pytest.approx(10 + 10 * 100.0, rel=0.1)


def test_small_transfers_say_nothing_about_speed() -> None:
    pace = Pace()
    pace.measured(1000, 60.0)
    pace.measured(1 << 20, 0.0)
    assert pace.deadline_s(1 << 20) == Pace().deadline_s(1 << 20)


def test_a_missed_deadline_leaves_time_enough_for_the_next_try() -> None:
    """A line that fell from 100 MB/s to 1 MB/s: the second try of 1 GB must be allowed its 1,000 s."""
    pace = Pace()
    for _ in range(30):
        pace.measured(100_000_000, 1.0)
    first = pace.deadline_s(1_000_000_000)
    assert first < 1000
    pace.missed(int(first * 1_000_000), first)
    assert pace.deadline_s(1_000_000_000) > 1000
    later = pace.deadline_s(1_000_000_000)
    pace.missed(0, 10.0)  # nothing came: nothing is known
    assert pace.deadline_s(1_000_000_000) == later


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, nothing, nothing, details=details)


ERRORS = [
    (grpc.StatusCode.PERMISSION_DENIED, "not a member", PeerRefused, "ann: not a member"),
    (grpc.StatusCode.INVALID_ARGUMENT, "not-finite: of bob", NotFinite, "of bob"),
    (grpc.StatusCode.INVALID_ARGUMENT, "part-invalid: x: y", PartInvalid, "x: y"),
    (grpc.StatusCode.ABORTED, "step-aborted: why", StepAborted, "why"),
    # What is retryable elsewhere is over here: the peer has failed, and told us once.
    (grpc.StatusCode.ABORTED, "peer-lost: cyd cannot be reached", PeerError, "cyd cannot be reached"),
    (grpc.StatusCode.ABORTED, "no-such-slug: words", LegionError, "words"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "", PartInvalid, "ann: a message is larger than any frame"),
    (grpc.StatusCode.UNAVAILABLE, "connection refused", PeerLost, "ann: unavailable, connection refused"),
    (grpc.StatusCode.INTERNAL, "Internal error from Core", PeerLost, "ann: internal, Internal error from Core"),
    (grpc.StatusCode.CANCELLED, "", PeerLost, "ann: cancelled, "),
]


@pytest.mark.parametrize(("code", "details", "kind", "says"), ERRORS)
def test_what_the_end_of_a_call_means(code: grpc.StatusCode, details: str, kind: type[LegionError], says: str) -> None:
    error = peer_error("ann", rpc_error(code, details))
    assert type(error) is kind
    assert str(error) == says
    assert error.retryable == (kind is PeerLost)  # tried again exactly while the watch decides


def test_a_stall_is_tried_again() -> None:
    assert peer_error("ann", TimeoutError()).retryable


def test_pauses_between_tries_grow_and_end_below_the_patience() -> None:
    assert list(peers.RETRY_S) == sorted(peers.RETRY_S)
    assert peers.RETRY_S[-1] < SILENT_S


@pytest.mark.parametrize("what", ["fetch", "gradient"])
async def test_a_failure_ends_calls_that_are_not_yet_connected(tmp_path: Path, what: str) -> None:
    """What is lost is known before the peer has said a word: nobody waits for it any longer."""
    knocked, callers = asyncio.Event(), list[asyncio.Task[None] | None]()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(asyncio.current_task())
        knocked.set()
        await reader.read()
        writer.close()

    async with listening(tmp_path) as nodes, await asyncio.start_server(say_nothing, "127.0.0.1", 0) as deaf:
        member = nodes[0].member
        silent = Endpoint(host="127.0.0.1", port=deaf.sockets[0].getsockname()[1])
        async with nodes[0].network.joined(member, endpoints_of(nodes) | {Rank(1): silent}):
            size = member.layout.padded_unit(0)
            if what == "fetch":
                call = asyncio.create_task(member.links[Rank(1)].fetch(0, 0, np.empty(size // 2, dtype=np.float32)))
            else:
                half = np.zeros(size // 2, dtype=np.float32)
                call = asyncio.create_task(member.links[Rank(1)].send_gradient(0, Batches((0,), 1), 0, half))
            await knocked.wait()
            member.changes.fail(NotFinite("of bob"))
            with pytest.raises(NotFinite, match="of bob"):
                await call
        await asyncio.wait([caller for caller in callers if caller])  # the server's end does not wait for them
