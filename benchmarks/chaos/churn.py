"""20 % of the workers leave in every round and return in the next: simulated for many rounds, real for some."""

import asyncio
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import psutil
from disturbed.story import Story, told
from disturbed.volunteers import POLL_S, Site, Worker
from rows import Row

from chaos.town import NARROW, config, town
from legion_server.simulate.course import Course
from legion_server.simulate.options import Options
from legion_server.simulate.run import Simulation

WORKERS = 5
CHURN = 0.2
STEPS = 8  # simulated, of 512 tokens each: every one is computed
REAL_STEPS = 96  # a round of these is longer than an engine's start


def simulated(folder: Path, rounds: int) -> list[Row]:
    """At equal delivered tokens: the run without churn has as many fewer rounds."""
    rough = _course(folder, rounds, CHURN)
    a_round = _course(folder, 1, 0.0).points[0].tokens
    calm = _course(folder, round(rough.points[-1].tokens / a_round), 0.0)
    delivered, wanted = rough.points[-1].tokens, calm.points[-1].tokens
    note = f"{rough.points[-1].loss:.4f} and {calm.points[-1].loss:.4f} nats, {delivered:,} and {wanted:,} tokens"
    return [
        Row("churn simulated: departures", rough.counts["departures"], "", f">= {rounds * WORKERS * CHURN / 2:.0f}"),
        Row("churn simulated: loss above the run without", _above(rough, calm), "%", "<= 1", note),
        Row("churn simulated: roots that differ", rough.counts["root_mismatches"], "", "<= 0"),
        Row("churn simulated: terms raised", rough.counts["terms_raised"], ""),
    ]


def _above(rough: Course, calm: Course) -> float:
    return 100 * (rough.points[-1].loss / calm.points[-1].loss - 1)


def _course(folder: Path, rounds: int, churn: float) -> Course:
    settings = [f"model.settings={json.dumps(NARROW | {'num_hidden_layers': 2})}"]
    settings += [f"rounds.steps={STEPS}", "data.seq_len=64", "batch.micro_batch_blocks=4", "optimizer.lr=4e-3"]
    options = Options(
        workers=WORKERS, steps=rounds * STEPS, churn=churn, parameters=1e7, settings=tuple(settings), compress="int4"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return Simulation(options, folder, lambda _name, _point: None).distributed()


def real(folder: Path, rounds: int) -> list[Row]:
    return asyncio.run(_real(folder, rounds))


async def _real(folder: Path, rounds: int) -> list[Row]:
    async with town(folder, config(WORKERS, rounds, REAL_STEPS, checkpoint_every=rounds), WORKERS) as site:
        chance, left, number = random.Random(0), 0, 0
        server: list[tuple[int, int]] = []
        while not await site.complete():
            await site.revive()
            plan = await site.plan()
            if plan is not None and plan.round > number:
                number = plan.round
                server.append(_holds(site))
                if number < rounds // 2:  # whoever is last to leave shall be back at the end
                    left += await _leaves(site, chance.choice(site.workers))
            await _return(site)
            await asyncio.sleep(POLL_S)
        await site.farewell()
        story = await told(site, 0.0)
    return [*_story(story, left, rounds), *_leaks(site.workers, server)]


async def _leaves(site: Site, worker: Worker) -> int:
    """In good order, as a volunteer who switches the computer off; nobody who is on the way already."""
    if worker.child.exit_code is not None or not worker.engines:
        return 0
    worker.child.ask_to_stop()
    return 1


async def _return(site: Site) -> None:
    """Whoever has ended in good order comes back at once: its start takes about a round."""
    if await site.complete():
        return
    for worker in site.workers:
        if worker.child.exit_code == 0:
            await site.restart(worker)


def _holds(site: Site) -> tuple[int, int]:
    assert site.server is not None
    process = psutil.Process(site.server.pid)
    return process.memory_info().rss, process.num_fds()


def _story(story: Story, left: int, rounds: int) -> list[Row]:
    figures, anchors = story.metrics.rounds, story.anchors()
    assert figures is not None
    return [
        Row("churn real: rounds", len(story.records), "", f">= {rounds}"),
        Row("churn real: departures", left, "", ">= 3", f"{story.starts} starts of clients"),
        Row("churn real: roots that differ from the assembler's", anchors.mismatches, f"of {anchors.compared}", "<= 0"),
        Row("churn real: workers with the last anchor", anchors.at_the_last, "", f">= {WORKERS}"),
        Row("churn real: validation loss of the last anchor", story.loss, "nats/byte"),
        Row("churn real: tracebacks in logs", story.tracebacks, "", "<= 0"),
    ]


def _leaks(workers: Sequence[Worker], server: Sequence[tuple[int, int]]) -> list[Row]:
    """By round, of the process that lived longest; its first two rounds are its start's."""
    lives = defaultdict(list)
    for worker in workers:
        for note in worker.notes():
            lives[note["pid"]].append(note)
    longest = max(lives.values(), key=len)[2:]
    return [
        Row(
            "churn real: an engine's memory grows by",
            _slope([n["rss_bytes"] for n in longest]) / 1e6,
            "MB a round",
            "<= 1",
            f"{len(longest)} rounds",
        ),
        Row("churn real: its descriptors grow by", _slope([n["descriptors"] for n in longest]), "a round", "<= 0.5"),
        Row("churn real: its tasks grow by", _slope([n["tasks"] for n in longest]), "a round", "<= 0.5"),
        Row(
            "churn real: the server's memory grows by",
            _slope([rss for rss, _ in server[2:]]) / 1e6,
            "MB a round",
            "<= 2",
        ),
        Row("churn real: its descriptors grow by", _slope([fds for _, fds in server[2:]]), "a round", "<= 0.5"),
    ]


def _slope(values: Sequence[float]) -> float:
    """Least squares; 0 of fewer than three."""
    if len(values) < 3:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope
