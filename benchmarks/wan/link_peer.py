"""A worker that listens, is in no plan, and looks at its link to whom it is told.

python link_peer.py NAMESPACE ADDRESS FOLDER; commands come as JSON lines (a LinkPeer), reports go as JSON lines.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from kernel import end_with_parent, enter_network

from legion.comm.link_probe import LinkProbe
from legion.comm.network import listen
from legion.identity import Identity
from legion.messages import LinkPeer


def say(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


async def serve(address: str, identity: Identity) -> None:
    network = await listen(identity, address, 0)
    probe = LinkProbe(identity, network.links)
    say(port=network.port)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        samples = await probe.look(LinkPeer.model_validate_json(line))
        say(samples=[sample.model_dump(mode="json") for sample in samples])


if __name__ == "__main__":
    end_with_parent()
    enter_network(int(sys.argv[1]))
    asyncio.run(serve(sys.argv[2], Identity.load(Path(sys.argv[3]))))
