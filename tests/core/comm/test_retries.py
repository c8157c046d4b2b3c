"""How long a call to another member may take, when it is tried again, and what its end means."""

import grpc
import pytest

from legion.comm import peers
from legion.comm.peers import SILENT_S, Pace, peer_error
from legion.errors import LegionError, NotFinite, PartInvalid, PeerError, PeerLost, PeerRefused, StepAborted


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
