"""Two workers of which one sends parts of rounds to the other, for `leave_room.py`.

python parts_peer.py take ADDRESS FOLDER KNOWN
    takes every part and keeps none; says its port on standard output
python parts_peer.py send ADDRESS PORT FOLDER KNOWN SECONDS LEAVE_ROOM
    as an engine does, over its own line, with the share of it that the agent tells; both here in one process
"""

import asyncio
import contextlib
import hashlib
import os
import sys
from pathlib import Path

from kernel import end_with_parent

from legion.comm.api import Usage
from legion.comm.line import Line
from legion.comm.network import listen
from legion.comm.rounds import RoundLinks
from legion.errors import NotFound
from legion.identity import Identity
from legion.ids import ClusterId, RunId, WorkerId
from legion.messages import Endpoint, Member
from legion.rounds import Blocks, PartKey, ResidualKey, UpdateKey
from legion_client.agent.sharing import Sharing, handshake_with
from legion_client.agent.traffic import Traffic
from legion_client.engine.protocol import Moved, Rates

PART_BYTES = 4 << 20
REDUCERS = 2  # that parts go to at the same time
TELLS_S = 0.25  # as an engine what it moved


class Shredder:
    """A desk."""

    def __init__(self, known: WorkerId) -> None:
        self._known = known

    def knows(self, worker: WorkerId) -> bool:
        return worker == self._known

    async def admit(self, sender: WorkerId, key: PartKey) -> None:
        """Always."""

    async def take_part(self, sender: WorkerId, key: PartKey, data: bytes) -> None:
        """And let it go."""

    async def admit_residual(self, sender: WorkerId, key: ResidualKey) -> None:
        raise NotFound("no residual is taken here")

    async def take_residual(self, sender: WorkerId, key: ResidualKey, data: bytes) -> None:
        raise NotFound("no residual is taken here")

    def turned_away(self, reason: str) -> None:
        print(f"turned away: {reason}", file=sys.stderr)

    def update(self, sha256: str) -> memoryview | None:
        return None

    async def made(self, key: UpdateKey) -> str:
        raise NotFound("no update is made here")


async def take(address: str, folder: Path, known: WorkerId) -> None:
    network = await listen(Identity.load(folder), address, 0)
    network.rounds.desk = Shredder(known)
    print(network.port, flush=True)
    await asyncio.get_running_loop().create_future()  # until we are ended


async def send(to: Member, folder: Path, seconds: float, leave_room: bool) -> None:
    traffic, line = Traffic(), Line()
    links = RoundLinks(Identity.load(folder), Usage(), line)
    data = os.urandom(PART_BYTES)

    def limit(rates: Rates) -> None:
        line.upload.limit(rates.upload_bytes_per_s, rates.burst_s)
        line.download.limit(rates.download_bytes_per_s, rates.burst_s)

    async def tell() -> None:
        told = 0
        while True:
            await asyncio.sleep(TELLS_S)
            told, before = line.upload.passed_bytes, told
            traffic.moved(Moved(sent_bytes=told - before, received_bytes=0))

    async def parts(span: int) -> None:
        for number in range(1 << 20):
            await links.send_part(to, key_of(data, number, span), data)

    traffic.with_engine(True)
    traffic.on_rates = limit
    url = f"https://{to.endpoint.host}:{to.endpoint.port}"
    sharing = Sharing(traffic, handshake_with(url), lambda: leave_room)
    work = [asyncio.create_task(sharing.keep()), asyncio.create_task(tell())]
    await asyncio.sleep(1.0)  # the base
    print("sending", flush=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds + 1.0):
            await asyncio.gather(*(parts(span) for span in range(REDUCERS)))
    for task in work:
        task.cancel()
    await links.close()


def key_of(data: bytes, number: int, span: int) -> PartKey:
    return PartKey(
        run_id=RunId("run-line"),
        round=number,
        span=span,
        cluster=ClusterId("c1"),
        rank=0,
        codec=0,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        steps=1,
        tokens=1,
        blocks=(Blocks(start=0, stop=1),),
    )


if __name__ == "__main__":
    end_with_parent()
    if sys.argv[1] == "take":
        asyncio.run(take(sys.argv[2], Path(sys.argv[3]), WorkerId(sys.argv[4])))
    else:
        endpoint = Endpoint(host=sys.argv[2], port=int(sys.argv[3]))
        member = Member(worker_id=WorkerId(sys.argv[5]), endpoint=endpoint, share=1)
        asyncio.run(send(member, Path(sys.argv[4]), float(sys.argv[6]), sys.argv[7] == "True"))
