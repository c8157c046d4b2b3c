"""What befalls the workers of a run: reducers killed, one worker stopped for some rounds, one paused now and then."""

import asyncio
import random
import signal
from dataclasses import dataclass, field
from typing import Literal

from disturbed.volunteers import Site, Worker
from legion.ids import WorkerId
from legion.rounds import RoundPlan

MOST_CRASHES = 2
Way = Literal["engine", "client"]


@dataclass(frozen=True, slots=True)
class Kill:
    round: int
    worker: str
    way: Way  # the engine alone, which its client starts again; or the client and its engine


@dataclass(slots=True)
class Disturbance:
    """`act` does what is due, one look after another.

    A reducer dies every `kill_every` rounds, somewhere in the round, until `spare` rounds before the end: whoever is
    killed last shall be back for the last anchor. The `sleeper` is stopped once, for `sleep` rounds: in the first round
    from `sleep_from` on that it takes part in, and not as a newcomer.
    """

    rounds: int
    kill_every: int
    sleeper: int  # number of a worker
    sleep_from: int  # round
    sleep: int  # rounds
    spare: int
    chance: random.Random
    kills: list[Kill] = field(default_factory=list)
    slept_from: int | None = None  # round

    @property
    def planned(self) -> int:
        """How many kills there will be."""
        return len(range(self.kill_every // 2, self.rounds - self.spare, self.kill_every))

    async def act(self, site: Site, plan: RoundPlan) -> None:
        sleeper = site.workers[self.sleeper]
        if self.slept_from is None:
            participant = plan.of_worker(WorkerId(sleeper.worker_id))
            counts = participant is not None and participant.most_tokens > 0
            if plan.round >= self.sleep_from and counts and sleeper.engines:
                sleeper.send(signal.SIGSTOP)
                self.slept_from = plan.round
        elif sleeper.asleep and plan.round >= self.slept_from + self.sleep:
            sleeper.send(signal.SIGCONT)
        due = self.kill_every // 2 + self.kill_every * len(self.kills)
        if plan.round >= due and len(self.kills) < self.planned:
            await self._kill_one(site)

    async def _kill_one(self, site: Site) -> None:
        """One of those who reduce a span of the round that is trained after a moment; nobody, if none of them is up."""
        figures = (await site.metrics()).rounds
        await asyncio.sleep(self.chance.random() * (figures.round_s or 0 if figures else 0))
        plan = await site.plan()
        if plan is None:
            return
        up = {worker.worker_id: worker for worker in site.workers if not worker.asleep and worker.engines}
        reducers = [plan.reducer(span) for span in range(len(plan.spans)) if plan.reducer(span) in up]
        if not reducers:
            return
        victim = up[self.chance.choice(reducers)]
        way = self._way(victim.name)
        if way == "client":
            victim.kill()
        else:
            victim.kill_engine()
        self.kills.append(Kill(plan.round, victim.name, way))

    def _way(self, worker: str) -> Way:
        """In turns; but a client whose engine dies three times in ten minutes waits for its volunteer."""
        ways = [kill.way for kill in self.kills if kill.worker == worker]
        hopeless = ways[-MOST_CRASHES:] == ["engine"] * MOST_CRASHES
        return "client" if len(self.kills) % 2 or hopeless else "engine"


async def paused(site: Site, worker: Worker, *, pause_s: float, period_s: float, periods: int) -> None:
    """Stopped for the last `pause_s` of every period."""
    for _ in range(periods):
        await asyncio.sleep(period_s - pause_s)
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(pause_s)
        worker.send(signal.SIGCONT)
        if await site.complete():
            raise RuntimeError("the run was over before the last pause: give it more rounds")
