"""A program for a network namespace: a router on its loopback, and the agent that looks for it there.

It says what it found as JSON. With `natpmp` as its argument the router speaks that too, at the port that is its own.
"""

import asyncio
import json
import subprocess
import sys

from legion.messages import Endpoint
from legion_client.agent.port_mapping import PortMapping
from legion_client.machine import natpmp
from tests.client.machine import played_router

ROUTER, ENGINE = "192.168.1.1", Endpoint(host="192.168.1.1", port=7000)
NETWORK = (
    ("link", "set", "lo", "up", "multicast", "on"),
    ("addr", "add", f"{ROUTER}/24", "dev", "lo"),
    ("route", "add", "239.0.0.0/8", "dev", "lo"),
)


async def found(router: played_router.Upnp) -> dict[str, object]:
    mapping = PortMapping()
    port = await mapping.open(ENGINE)
    state, opened = mapping.state, dict(router.mappings)
    await mapping.close()
    return {
        "port": port,
        "state": state,
        "mappings": opened,
        "searches": len(router.searches),
        "left": dict(router.mappings),
    }


async def main() -> None:
    natpmp.default_gateway = lambda *_: ROUTER
    with played_router.upnp(ROUTER) as router:
        router.answer_searches()
        if "natpmp" in sys.argv:
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(played_router.NatPmp, local_addr=(ROUTER, natpmp.PORT))
        sys.stdout.write(json.dumps(await found(router)))


if __name__ == "__main__":
    for arguments in NETWORK:
        subprocess.run(["ip", *arguments], check=True)
    asyncio.run(main())
