"""A member on the real network: one listening server, one link and one watch to every other member."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any

import grpc

from legion.comm.credentials import CHANNEL_OPTIONS, SERVER_OPTIONS, channel_credentials, server_credentials
from legion.comm.links import LinkService
from legion.comm.member import Member
from legion.comm.moving import MovingChannel
from legion.comm.peers import BROKEN, GrpcLink
from legion.comm.rounds import RoundService
from legion.comm.server import PeerService
from legion.errors import PortInUse
from legion.identity import Identity
from legion.ids import Rank, WorkerId, host_name
from legion.messages import Endpoint

logger = logging.getLogger(__name__)
GRACE_S = 2.0  # for answers under way when the server stops


class PeerNetwork:
    """Listens from the start; answers once it has joined a plan as a member. Lives on the event loop."""

    def __init__(
        self, identity: Identity, server: Any, service: PeerService, rounds: RoundService, links: LinkService, port: int
    ) -> None:
        self._identity = identity
        self._server = server
        self._service = service
        self.rounds = rounds
        self.links = links
        self.port = port
        self._peers: dict[WorkerId, GrpcLink] = {}  # of the plan that is joined

    @contextlib.asynccontextmanager
    async def joined(
        self, member: Member, endpoints: Mapping[Rank, Endpoint], listening: Collection[WorkerId] = ()
    ) -> AsyncIterator[Mapping[Rank, Any]]:
        """As long as the block runs: links to the others, watches over them, answers for them; the channels to them.

        Another plan may be joined after it. `listening`: who was there already when the plan was made.
        """
        credentials = channel_credentials(self._identity)
        channels = {
            rank: MovingChannel(_dial(credentials, member.group.members[rank]), endpoint)
            for rank, endpoint in endpoints.items()
            if rank != member.group.rank
        }
        names = {rank: member.group.members[rank] for rank in channels}
        links = {
            rank: GrpcLink(channel, names[rank], member, listens=names[rank] in listening)
            for rank, channel in channels.items()
        }
        member.links = links
        self._peers = {member.group.members[rank]: link for rank, link in links.items()}
        self._service.serve(member)
        loop = asyncio.get_running_loop()
        closing: list[asyncio.Task[None]] = []
        # A failed cluster answers nobody: calls under way end at once instead of waiting for their peers.
        member.changes.on_failure.append(
            lambda: closing.extend(loop.create_task(channel.close()) for channel in channels.values())
        )
        member.changes.on_failure.extend(link.abandon for link in links.values())
        watches = [loop.create_task(link.watch(), name="watch") for link in links.values()]
        try:
            yield channels
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
            await asyncio.gather(*closing, *(channel.close() for channel in channels.values()))

    def found(self, peer: WorkerId, endpoint: Endpoint | None) -> None:
        """See `GrpcLink.found`. Nothing for who is no member of the plan."""
        if peer in self._peers:
            self._peers[peer].found(endpoint)

    def break_off(self) -> None:
        """Tell those who watch us that this plan is over for us, and that we are there for another."""
        self._service.say_farewell(BROKEN)

    async def leave(self, reason: str) -> None:
        """Tell those who watch us, then stop listening."""
        self._service.say_farewell(reason)
        await self._server.stop(GRACE_S)


def _dial(credentials: grpc.ChannelCredentials, peer: WorkerId) -> Callable[[Endpoint], Any]:
    """Channels to one worker, wherever it is: its name is what is checked, and what a relay finds it by."""

    def dial(endpoint: Endpoint) -> Any:
        return grpc.aio.secure_channel(
            f"{endpoint.host}:{endpoint.port}",
            credentials,
            options=[*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", host_name(peer))],
        )

    return dial


async def listen(
    identity: Identity, host: str, port: int, beside: Callable[[PeerService], Sequence[Any]] = lambda _: ()
) -> PeerNetwork:
    """A server on `host`; port 0 takes any free one. PortInUse if that is not possible.

    `beside`: more gRPC services for members of the plan.
    """
    service, rounds = PeerService(), RoundService()
    links = LinkService(rounds.line)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((service, rounds, links, *beside(service)))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_secure_port(address, server_credentials(identity))
    except RuntimeError as error:
        raise PortInUse(f"cannot listen on {address}: the port is in use or not ours") from error
    if not bound:
        raise PortInUse(f"cannot listen on {address}: the port is in use or not ours")
    await server.start()
    logger.info("listening address=%s port=%d", host, bound)
    return PeerNetwork(identity, server, service, rounds, links, bound)
