"""Simulated runs: the computers, their network and the server put together, and what came of it. Needs torch."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from legion.config import RunConfig
from legion.data.blocks import Blocks, open_blocks
from legion.data.prepare import Prepared, prepare
from legion.errors import LegionError
from legion.ids import Epoch, WorkerId
from legion.messages import Endpoint, Member, ModelShape, Plan
from legion.model.build import blueprint
from legion.reports import EvaluationRecord, StepRecord
from legion.rounds import RoundPlan, RoundRecord
from legion.sim import clock
from legion.sim.blobs import Shelves
from legion.sim.computer import SERVER, Computer, Town
from legion.sim.device import DEVICES, DeviceModel
from legion.sim.engine import SimEngine, World, cluster_members
from legion.sim.judge import Judge
from legion.sim.network import Access, Network, Rate
from legion.sim.storage import Storage, start_of
from legion_server.simulate.coordinator import RUN, Coordinator
from legion_server.simulate.course import Course, Point, Work
from legion_server.simulate.options import JUDGED_BLOCKS, Options, named, rates

SERVER_ACCESS: Final = Access(Rate(10_000.0, 10_000.0, 0.0))  # in a data centre: it never is the narrow place
Progress = Callable[[str, Point], None]


class Simulation:
    """The data, once, for the runs that are compared."""

    def __init__(self, options: Options, folder: Path, progress: Progress) -> None:
        self.options = options
        self._progress = progress
        torch.set_num_threads(1)
        config = options.config()
        self._names = named(options.devices, tuple(DEVICES))
        self._speeds = options.relative_speeds
        self._internet = self._rate(options.bandwidth, "--bandwidth", options.latency_ms)
        self._lan = self._rate(options.lan, "--lan", options.lan_latency_ms)
        self._prepared: Prepared = prepare(config.data, seed=options.seed, folder=folder)
        self.config = config.model_copy(update={"data": self._prepared.data})
        self._blocks: Blocks = open_blocks(self._prepared.manifest, folder, seed=options.seed)

    @property
    def parameters(self) -> int:
        """Of the model that is trained."""
        return blueprint(self.config, self._prepared.manifest.vocab_size).shape.parameters

    @property
    def title(self) -> str:
        """For the plot."""
        options = self.options
        return (
            f"{options.workers} workers in {self._clusters} clusters, {options.model}, {options.compress}, "
            f"{options.bandwidth} Mbit/s, {options.latency_ms:g} ms"
        )

    @staticmethod
    def _rate(text: str, option: str, round_trip_ms: float) -> Rate:
        return Rate(*rates(text, option), round_trip_ms / 2000)

    def device(self, number: int) -> DeviceModel:
        return DEVICES[self._names[number % len(self._names)]].faster(self._speeds[number])

    def distributed(self) -> Course:
        """Clusters average by rounds."""
        return clock.run(self._in_rounds())

    def baseline(self) -> Course:
        """One process as fast as all workers together makes the same steps on as many tokens, without a network."""
        return clock.run(self._in_one_process())

    def _world(self, config: RunConfig) -> tuple[World, ModelShape]:
        world = World(config, self._prepared.manifest.vocab_size, self._blocks, Network(), Shelves())
        shape = world.model().shape
        wanted = self.options.parameters
        if wanted is not None:
            scale = wanted / shape.parameters
            world = replace(world, network=Network(scale), scale=scale)
        return world, shape

    async def _in_rounds(self) -> Course:
        config = self.config
        world, shape = self._world(config)
        storage = Storage(config, shape, world.shelves)
        diary = Diary(config, "distributed", Judge(world, JUDGED_BLOCKS), self._progress)
        coordinator = Coordinator(
            config, storage, lambda record: diary.committed(record, storage), lambda plan: crowd.round_begins(plan)
        )
        town = Town(world, coordinator, storage, shape)
        crowd = Crowd(self.options, coordinator, town)
        world.network.connect(SERVER, SERVER_ACCESS)
        for number in range(self.options.workers):
            place = "" if self.options.cluster_size == 1 else f"place {number // self.options.cluster_size}"
            worker = worker_id(number)
            world.network.connect(worker, Access(self._internet, place, self._lan))
            coordinator.enrol(worker)
            town.computers[worker] = Computer(town, worker, self.device(number), diary.step_done)
        await crowd.train()
        diary.close(coordinator, crowd, town, self._speeds)
        return diary.course

    async def _in_one_process(self) -> Course:
        config = self.config
        batch = config.batch.model_copy(update={"micro_batches": config.batch.micro_batches * self._clusters})
        cluster = config.cluster.model_copy(update={"policy": "one", "size": None})
        config = config.model_copy(update={"batch": batch, "cluster": cluster})
        world, shape = self._world(config)
        worker = worker_id(0)
        member = Member(worker_id=worker, endpoint=Endpoint(host="127.0.0.1", port=1), share=1)
        plan = Plan(run_id=RUN, epoch=Epoch(1), members=(member,), shape=shape, first_step=0, config_digest="0" * 64)
        flop_s = sum(self.device(number).flop_s for number in range(self.options.workers))
        diary = Alone(config, Judge(world, JUDGED_BLOCKS), self._progress)
        device = DeviceModel("all together", flop_s)
        engine = SimEngine(world, device, plan, cluster_members(world, plan), worker, diary)
        diary.engine = engine
        await engine.train(start_of(config, shape))
        now = asyncio.get_running_loop().time()
        work = Work(device.name, 1.0, now, engine.computed_s, config.steps, diary.tokens)
        diary.course.workers[worker] = work
        return diary.course

    @property
    def _clusters(self) -> int:
        return self.options.workers // self.options.cluster_size


def worker_id(number: int) -> WorkerId:
    """As long as a real one, and in the order of the numbers."""
    return WorkerId(f"{number:032d}")


class Diary:
    """A run in rounds as it goes."""

    def __init__(self, config: RunConfig, name: str, judge: Judge, progress: Progress) -> None:
        self.course = Course()
        self._name = name
        self._judge = judge
        self._progress = progress
        self._clock = asyncio.get_running_loop().time
        self._losses: list[float] = []
        self.steps: dict[WorkerId, int] = {}
        self.tokens: dict[WorkerId, int] = {}

    def heard(self, loss: float) -> None:
        self._losses.append(loss)

    def step_done(self, computer: Computer, record: StepRecord) -> None:
        self.heard(record.loss)
        self.steps[computer.me] = self.steps.get(computer.me, 0) + 1
        self.tokens[computer.me] = self.tokens.get(computer.me, 0) + record.tokens

    def committed(self, record: RoundRecord, storage: Storage) -> None:
        self.note(
            record.round,
            record.total_tokens,
            self._judge.loss(storage.anchor),
            len({inclusion.cluster for span in record.spans for inclusion in span.included}),
        )

    def note(self, number: int, tokens: int, loss: float, clusters: int) -> None:
        losses, self._losses = self._losses, []
        train_loss = sum(losses) / len(losses) if losses else None
        point = Point(number, self._clock(), tokens, loss, train_loss, clusters)
        self.course.points.append(point)
        self._progress(self._name, point)

    def close(self, coordinator: Coordinator, crowd: "Crowd", town: Town, speeds: tuple[float, ...]) -> None:
        counters = coordinator.rounds.counters if coordinator.rounds else None
        self.course.traffic = town.world.network.traffic
        self.course.root = town.storage.root
        self.course.counts = {
            "root_mismatches": coordinator.mismatches,
            "departures": crowd.departures,
            **(
                {name: value for name, value in counters.model_dump().items() if isinstance(value, int)}
                if counters
                else {}
            ),
        }
        for number, (worker, computer) in enumerate(town.computers.items()):
            self.course.workers[worker] = Work(
                computer.device.name,
                speeds[number],
                crowd.online_s(worker),
                computer.computed_s,
                self.steps.get(worker, 0),
                self.tokens.get(worker, 0),
            )


class Alone:
    """The run of one process as it goes. See `loop.Listener`."""

    def __init__(self, config: RunConfig, judge: Judge, progress: Progress) -> None:
        self._diary = Diary(config, "baseline", judge, progress)
        self._judge = judge
        self._config = config
        self.course = self._diary.course
        self.engine: SimEngine | None = None
        self.tokens = 0

    def step_done(self, record: StepRecord) -> None:
        self._diary.heard(record.loss)
        self.tokens += record.tokens
        every = self._config.rounds.steps
        if self.engine is not None and (record.step % every == 0 or record.step == self._config.steps):
            loss = self._judge.loss(self.engine.weights)
            self._diary.note((record.step - 1) // every, self.tokens, loss, 1)

    def evaluated(self, record: EvaluationRecord) -> None:
        """Losses are measured beside the run."""

    def checkpoint_due(self, step: int, tokens: int) -> None:
        """Nobody resumes."""


class Crowd:
    """All computers at once; some leave in the middle of a round, and return in the next."""

    def __init__(self, options: Options, coordinator: Coordinator, town: Town) -> None:
        self._options = options
        self._coordinator = coordinator
        self._town = town
        self._loop = asyncio.get_running_loop()
        self._lives: dict[WorkerId, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._away: dict[WorkerId, float] = {}  # since when
        self._away_s: dict[WorkerId, float] = {}
        self.departures = 0
        self._ended_at = 0.0

    async def train(self) -> None:
        """Until the run is over. RunError when it cannot go on."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for worker in self._town.computers:
                    self._begin(worker)
                self._tasks.create_task(self._coordinator.serve())
        except BaseExceptionGroup as failed:
            ours = failed.subgroup(LegionError)
            raise (ours or failed).exceptions[0] from None
        self._ended_at = self._loop.time()

    def _begin(self, worker: WorkerId) -> None:
        assert self._tasks is not None
        self._lives[worker] = self._tasks.create_task(self._town.computers[worker].live())

    def online_s(self, worker: WorkerId) -> float:
        return self._ended_at - self._away_s.get(worker, 0.0)

    def round_begins(self, plan: RoundPlan) -> None:
        """Who leaves in this round follows from the seed, the round and the worker alone."""
        if not self._options.churn or self._tasks is None:
            return
        for worker in plan.workers:
            chance = random.Random(f"{self._options.seed} {plan.round} {worker}")
            if chance.random() < self._options.churn:
                self._tasks.create_task(self._absence(worker, chance.random()))

    async def _absence(self, worker: WorkerId, when: float) -> None:
        rounds = self._coordinator.rounds
        round_s = (rounds.round_s if rounds else None) or 0.0
        await asyncio.sleep(when * round_s)
        life = self._lives[worker]
        if life.done() or self._coordinator.over:
            return
        self.departures += 1
        left_at, number = self._loop.time(), rounds.committed if rounds else 0
        self._town.computers[worker].depart()
        life.cancel()
        await asyncio.wait([life])
        self._coordinator.goodbye(worker)
        patience_s = max(1.0, 2 * round_s)  # if everybody is away, nobody ends the round
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._coordinator.changes.until(lambda: self._committed > number)
        self._away_s[worker] = self._away_s.get(worker, 0.0) + self._loop.time() - left_at
        self._town.world.network.connect(worker, self._town.world.network.access(worker))
        self._begin(worker)

    @property
    def _committed(self) -> int:
        return self._coordinator.rounds.committed if self._coordinator.rounds else 0
