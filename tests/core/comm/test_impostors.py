"""A member that answers with what no honest program says, refuses, or stalls: named, and never believed."""

import asyncio
import contextlib
import itertools
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tls_members import Node, failed, listening

from legion.codec.api import Floats
from legion.codec.registry import by_name
from legion.comm import frames, peers
from legion.comm.api import Ballot, Batches
from legion.comm.credentials import SERVER_OPTIONS, server_credentials
from legion.comm.frames import encode_frame, frames_of
from legion.comm.patience import Pace
from legion.comm.server import SERVICE
from legion.errors import LegionError, NotFinite, PartInvalid, PeerLost, PeerRefused
from legion.ids import Rank
from legion.layout import CHUNK, Layout
from legion.messages import Endpoint
from legion.proto.peer_pb2 import ClaimReply, PartHeader, Presence

TWO_CHUNKS = Layout((4 * CHUNK,), (1, 1))  # for each of two members


class Impostor(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A member in good standing whose program answers as the test says."""

    def __init__(self, **answers: Callable[[Any], Any]) -> None:
        self._answers = answers

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        answer = self._answers.get(details.method.removeprefix(SERVICE))
        if answer is None and details.method == SERVICE + "Watch":
            answer = present
        if answer is None:
            return None

        async def answered(_requests: AsyncIterator[bytes], context: Any) -> None:
            async for message in answer(context):
                await context.write(message)

        return grpc.stream_stream_rpc_method_handler(answered)


async def present(_context: Any) -> AsyncIterator[bytes]:
    yield Presence().SerializeToString()
    await asyncio.get_running_loop().create_future()


def saying(*messages: bytes) -> Callable[[Any], AsyncIterator[bytes]]:
    async def answer(_context: Any) -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    return answer


@contextlib.asynccontextmanager
async def with_impostor(folder: Path, **answers: Callable[[Any], Any]) -> AsyncIterator[tuple[Node, str]]:
    """An honest second member, and the worker id of the first, who is not what he seems."""
    async with listening(folder, TWO_CHUNKS) as nodes:
        identity = nodes[0].identity
        options = [(k, v) for k, v in SERVER_OPTIONS if "message_length" not in k]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((Impostor(**answers),))
        port = server.add_secure_port("127.0.0.1:0", server_credentials(identity))
        await server.start()
        endpoints = {Rank(0): Endpoint(host="127.0.0.1", port=port), Rank(1): nodes[1].endpoint}
        async with nodes[1].network.joined(nodes[1].member, endpoints):
            yield nodes[1], identity.worker_id
        await server.stop(None)


def weights_of(values: Floats, **header: int) -> list[bytes]:
    return list(frames_of(PartHeader(**({"step": 0, "unit": 0} | header)), by_name("none"), values))


def of_codec(wire_id: int) -> bytes:
    header = PartHeader(codec=wire_id).SerializeToString()
    return encode_frame(b"", zlib.crc32(header), header)


ONES = np.ones(2 * CHUNK, dtype=np.float32)
BAD_WEIGHTS: dict[str, tuple[Callable[[], list[bytes]], type[LegionError], str]] = {
    "nothing": (lambda: [], PartInvalid, "no weights came"),
    "no frame": (lambda: [b"hello"], PartInvalid, "no frame"),
    "no header": (lambda: weights_of(ONES)[1:], PartInvalid, "without a header"),
    "truncated": (lambda: weights_of(ONES)[:1], PartInvalid, "ended after 4096 of 8192"),
    "another step": (lambda: weights_of(ONES, step=1), PartInvalid, "step 1 came"),
    "another unit": (lambda: weights_of(ONES, unit=1), PartInvalid, "unit 1"),
    "too large": (lambda: weights_of(np.ones(3 * CHUNK, dtype=np.float32)), PartInvalid, "12288 elements"),
    "NaN": (lambda: weights_of(np.where(np.arange(ONES.size) < CHUNK, 1, np.float32(np.nan))), NotFinite, "NaN"),
    "NaN at once": (lambda: weights_of(np.full_like(ONES, np.nan)), NotFinite, "NaN or infinity"),
    "more than a frame holds": (lambda: [bytes(3 << 20)], PartInvalid, "larger than any frame"),
    "unknown codec": (lambda: [of_codec(9)], PartInvalid, "unknown codec id 9"),
}


@pytest.mark.parametrize("what", sorted(BAD_WEIGHTS))
async def test_bad_weights_end_the_fetch_and_name_their_owner(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "PAYLOAD_BYTES", 4 * CHUNK)  # a frame for each chunk
    messages, kind, says = BAD_WEIGHTS[what]
    async with with_impostor(tmp_path, Fetch=saying(*messages())) as (node, impostor):
        node.member.shelf.put(0, 0, ONES)
        with pytest.raises(kind) as caught:
            await node.member.gather(0, 0, np.empty(4 * CHUNK, dtype=np.float32))
        assert str(caught.value).count(impostor) == 1
        assert says in str(caught.value)


async def test_answers_that_cannot_be_read_name_who_gave_them(tmp_path: Path) -> None:
    nonsense = saying(b"\xff\xff\xff")
    async with with_impostor(tmp_path, Claim=nonsense, Vote=nonsense) as (node, impostor):
        for call in (node.member.claim(0, 4), node.member.vote(0, Ballot(True, Batches((), 0), 4))):
            with pytest.raises(PartInvalid, match=rf"{impostor}: a \w+ cannot be read"):
                await call


async def test_a_watch_that_hears_nonsense_ends_the_membership(tmp_path: Path) -> None:
    async with with_impostor(tmp_path, Watch=saying(b"\xff\xff\xff")) as (node, impostor):
        error = await failed(node)
        assert isinstance(error, PartInvalid)
        assert impostor in str(error)


async def test_who_refuses_us_is_not_asked_again(tmp_path: Path) -> None:
    async def refuse(context: Any) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a member of the plan")
        yield b""

    async with with_impostor(tmp_path, Watch=refuse) as (node, impostor):
        error = await failed(node)
        assert isinstance(error, PeerRefused)
        assert str(error) == f"{impostor}: not a member of the plan"


async def test_unavailable_once_is_no_failure(tmp_path: Path) -> None:
    calls = itertools.count()

    async def busy_at_first(context: Any) -> AsyncIterator[bytes]:
        if next(calls) == 0:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "come again")
        yield ClaimReply(index=3).SerializeToString()

    async with with_impostor(tmp_path, Claim=busy_at_first) as (node, _):
        assert await node.member.claim(0, 4) == 3
        assert next(calls) == 2


async def test_a_pause_before_another_try_ends_with_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "RETRY_S", (3600.0,))
    pausing = asyncio.Event()
    require = peers.GrpcLink._require_retryable

    def noted(link: peers.GrpcLink, error: Any) -> None:
        require(link, error)
        pausing.set()

    monkeypatch.setattr(peers.GrpcLink, "_require_retryable", noted)

    async def busy(context: Any) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "come again")
        yield b""

    async with with_impostor(tmp_path, Claim=busy) as (node, _):
        claim = asyncio.ensure_future(node.member.claim(0, 4))
        await pausing.wait()
        node.member.changes.fail(PeerLost("a third cannot be reached"))
        async with asyncio.timeout(60):
            with pytest.raises(PeerLost, match="a third"):
                await claim


async def test_a_transfer_that_stalls_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "deadline_s", lambda *_: 0.2)
    monkeypatch.setattr(frames, "PAYLOAD_BYTES", 4 * CHUNK)  # a frame for each chunk
    calls = itertools.count()

    async def stalling(_context: Any) -> AsyncIterator[bytes]:
        first, second = weights_of(ONES)
        yield first
        if next(calls) == 0:
            await asyncio.get_running_loop().create_future()
        yield second

    async with with_impostor(tmp_path, Fetch=stalling) as (node, _):
        out = np.zeros(4 * CHUNK, dtype=np.float32)
        node.member.shelf.put(0, 0, ONES)
        await node.member.gather(0, 0, out)
        assert (out == 1).all()
        assert next(calls) == 2
