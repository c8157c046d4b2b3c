"""A member of two without a model, reached as the agent sees to it; told what to do in JSON lines.

python peer.py HOME VALUES
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from legion.codec.registry import by_name
from legion.comm.api import Batches, Group
from legion.comm.member import Member
from legion.comm.network import PeerNetwork, listen
from legion.ids import Epoch, Rank, WorkerId
from legion.layout import Layout
from legion.messages import Endpoint
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.enrolment import Enrolment
from legion_client.agent.reach import Reach
from legion_client.paths import Home
from legion_client.settings import Network

MARKER = b"LEGION-PLAINTEXT"  # four values of a gradient, again and again


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main(home: Home, values: int) -> None:
    known = Enrolment.load(home.identity)
    assert known is not None
    async with Coordinator(known.base_url, known.context, known.worker_id, known.token) as server:
        await server.relays()  # after which it is known from which address we speak
        assert server.local_host is not None
        network = await listen(known.identity, server.local_host, 0)
        reach = Reach(server, home.identity, home.reachability, Network(), lambda: None)
        serving = asyncio.ensure_future(reach.serve())
        await reach.find(server.local_host, network.port)
        assert reach.endpoint is not None
        say(worker=known.worker_id, how=reach.found.how, endpoint=reach.endpoint.model_dump())
        try:
            await exchange(network, values, await commands())
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await network.leave("complete")


async def exchange(network: PeerNetwork, values: int, lines: asyncio.StreamReader) -> None:
    plan = json.loads(await lines.readline())
    workers = tuple(WorkerId(worker) for worker in plan["workers"])
    endpoints = {Rank(rank): Endpoint.model_validate(e) for rank, e in enumerate(plan["endpoints"])}
    layout, plain = Layout((2 * values,), (1, 1)), by_name("none")
    member = Member(Group(Epoch(1), workers, Rank(plan["rank"])), layout, ordered=False, weights=plain, gradients=plain)
    gradient = np.frombuffer(MARKER * (values // 4), dtype=np.float32)
    async with network.joined(member, endpoints):
        say(joined=True)
        while line := await lines.readline():
            step, sends = json.loads(line)["step"], plan["rank"] == 0
            if sends:
                began = time.perf_counter()
                await member.links[Rank(1)].send_gradient(step, Batches((0,), 1), 0, gradient)
                say(took_s=time.perf_counter() - began)
            else:
                out = np.empty(values, dtype=np.float32)
                member.mailbox.open(step, 0, 1, out)
                say(opened=step)
                await member.mailbox.complete(step, 0)
                say(equal=bool(out.tobytes() == gradient.tobytes()))


if __name__ == "__main__":
    asyncio.run(main(Home(Path(sys.argv[1])), int(sys.argv[2])))
