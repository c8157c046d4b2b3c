"""A cluster over real gRPC with mutual TLS on loopback, all members on one event loop of this process."""

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from identities import issue

from legion.codec.registry import by_name
from legion.comm.api import Group
from legion.comm.bridge import Bridge
from legion.comm.exchange import MemberExchange
from legion.comm.member import Member
from legion.comm.network import PeerNetwork, listen
from legion.errors import LegionError
from legion.ids import Epoch, Rank
from legion.layout import Layout
from legion.messages import Endpoint


class NetworkCluster:
    """The same surface as `local.LocalCluster`."""

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        *,
        static_claims: bool = False,
        weights: str = "none",
        gradients: str = "none",
    ) -> None:
        self.identities = issue(folder, layout.world)
        self.networks: list[PeerNetwork] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network cluster")
        workers = tuple(identity.worker_id for identity in self.identities)
        self.members = [
            Member(
                Group(Epoch(1), workers, rank),
                layout,
                ordered=static_claims,
                weights=by_name(weights),
                gradients=by_name(gradients),
            )
            for rank in layout.ranks
        ]
        self.exchanges = [
            MemberExchange(member, Bridge(self._loop, member.usage), static_claims=static_claims)
            for member in self.members
        ]

    def fail(self, error: LegionError) -> None:
        for member in self.members:
            self._loop.call_soon_threadsafe(member.changes.fail, error)

    def leave(self, rank: int, reason: str) -> None:
        asyncio.run_coroutine_threadsafe(self.networks[rank].leave(reason), self._loop).result()

    def __enter__(self) -> "NetworkCluster":
        self._thread.start()
        ready: Future[None] = Future()
        self._over = asyncio.run_coroutine_threadsafe(self._serve(ready), self._loop)
        ready.result()
        return self

    async def _serve(self, ready: "Future[None]") -> None:
        self._ended = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            for identity in self.identities:
                self.networks.append(await listen(identity, "127.0.0.1", 0))
            endpoints = {Rank(r): Endpoint(host="127.0.0.1", port=n.port) for r, n in enumerate(self.networks)}
            for network, member in zip(self.networks, self.members, strict=True):
                await stack.enter_async_context(network.joined(member, endpoints))
            ready.set_result(None)
            await self._ended.wait()
            for network in self.networks:
                await network.leave("complete")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for exchange in self.exchanges:
            exchange.close("the cluster is closed")
        self._loop.call_soon_threadsafe(self._ended.set)
        self._over.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
