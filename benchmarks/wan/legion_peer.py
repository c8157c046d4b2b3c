"""A cluster of one that learns at random: the production member, courier, reducer and network, without a model.

python legion_peer.py NAMESPACE ADDRESS PEER FOLDER; commands come as JSON lines, reports go as JSON lines. Times are
of the machine's monotonic clock, which all processes share.
"""

import asyncio
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from kernel import end_with_parent, enter_network
from learning import CHECKED, error_of_mean, learned

from legion.comm.api import Verdict
from legion.comm.network import PeerNetwork, listen
from legion.config import RoundsConfig, RunConfig
from legion.identity import Identity
from legion.ids import Rank
from legion.messages import Message
from legion.outer.courier import Courier
from legion.outer.member import Place, RoundMember
from legion.rounds import RoundPlan
from legion_client.engine.protocol import COMMANDS, RoundNews, UpdateHere, UpdateWanted
from legion_client.engine.rounds import Rounds

Go = queue.SimpleQueue[None]


def say(**what: Any) -> None:
    line = memoryview(json.dumps(what).encode() + b"\n")
    while line:
        line = line[os.write(1, line) :]


class Peer:
    """`go` holds one entry for every contribution that was asked for."""

    def __init__(self, peer: int, folder: Path, network: PeerNetwork) -> None:
        self._peer = peer
        self._folder = folder
        self._network = network
        self._identity = Identity.load(folder)
        self.go: Go = queue.SimpleQueue()
        self.rounds = Rounds(self._report)

    def _report(self, message: Message) -> None:
        if isinstance(message, UpdateWanted):  # there is no storage: another worker will have it
            self.rounds.hear(UpdateHere(sha256=message.sha256, path=None))
        say(report=message.model_dump(mode="json"))

    async def run(self, plan: RoundPlan, config: RoundsConfig, rounds: int) -> None:
        me = plan.participants[self._peer]
        place = Place(plan.run_id, me.cluster, Rank(0), me.layout(plan.shape), rounds)
        whole = RunConfig(rounds=config, steps=rounds)
        async with self.rounds.taking_part(whole, self._identity, place, 0, self._network, self._folder) as courier:
            self.rounds.hear(RoundNews(plans=(plan,)))
            await asyncio.to_thread(self._train, config, place, courier, len(plan.participants))
            await asyncio.get_running_loop().create_future()  # others may still fetch from us: until we are ended

    def _train(self, config: RoundsConfig, place: Place, courier: Courier, peers: int) -> None:
        weights = learned(place.layout.total, -1 % 2**32, 0)
        member = RoundMember(config, place, weights, 0, courier)
        member.enter(0)
        for number in range(place.rounds):
            with member.showing_anchor():
                before = weights[:CHECKED].copy()
            np.add(weights, learned(weights.size, self._peer, number), out=weights)
            say(ready=number)
            self.go.get()
            told_s = time.monotonic()
            member.took(1)
            step = Verdict(commit=True, tokens=1, ready=number)
            if not member.reached(step):
                raise RuntimeError("no contribution is due after the only step of a round")
            member.cross(step)
            sent_s = time.monotonic()
            member.wait()
            here_s = time.monotonic()
            member.cross(Verdict(commit=True, ready=number + 1))
            done_s = time.monotonic()
            with member.showing_anchor():
                error = error_of_mean(weights[:CHECKED] - before, peers, number)
            say(moved=number, told_s=told_s, encoded_s=sent_s, here_s=here_s, done_s=done_s, error=error)


async def main(address: str, peer: int, folder: Path) -> None:
    network = await listen(Identity.load(folder), address, 0)
    say(port=network.port)
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    threading.Thread(
        target=_read, args=(lambda line: loop.call_soon_threadsafe(lines.put_nowait, line),), daemon=True
    ).start()
    opening = json.loads(await lines.get())
    me = Peer(peer, folder, network)
    plan, config = RoundPlan.model_validate(opening["plan"]), RoundsConfig.model_validate(opening["config"])
    work = asyncio.create_task(me.run(plan, config, opening["rounds"]))
    while not work.done():
        line = asyncio.create_task(lines.get())
        await asyncio.wait({line, work}, return_when=asyncio.FIRST_COMPLETED)
        if line.done() and (said := json.loads(line.result())) == "go":
            me.go.put(None)
        elif line.done():
            me.rounds.hear(COMMANDS.validate_python(said))
        else:
            line.cancel()
    await work


def _read(heard: Callable[[bytes], object]) -> None:
    for line in sys.stdin.buffer:
        heard(line)


if __name__ == "__main__":
    end_with_parent()
    enter_network(int(sys.argv[1]))
    asyncio.run(main(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
