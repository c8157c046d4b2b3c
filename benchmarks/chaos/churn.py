"""20 % of the workers leave in every round and return in the next: simulated for many rounds, real for some."""

import asyncio
import json
import random
from pathlib import Path

from disturbed.story import Story, told
from disturbed.volunteers import POLL_S, Site, Worker
from rows import Row

from chaos import leaks
from chaos.town import NARROW, SEQ_LEN, config, town
from legion_server.simulate.course import Course
from legion_server.simulate.options import Options
from legion_server.simulate.run import Simulation

WORKERS = 5
CHURN = 0.2
STEPS = 8  # simulated, of 512 tokens each: every one is computed
REAL_STEPS = 96  # a round of these is longer than an engine's start
TOKENS_A_STEP = SEQ_LEN * 8  # of a cluster
EQUAL = 0.05  # tokens of two runs that are compared differ by so much at most
LAST = 3  # rounds in which nobody leaves


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
    """The first worker stays, so that what it holds tells of all rounds; so does the server."""
    return asyncio.run(_real(folder, rounds))


async def _real(folder: Path, rounds: int) -> list[Row]:
    rough, left, grown = await _run(folder / "rough", rounds, leaves=True)
    delivered = _tokens(rough)
    calm_rounds = round(delivered / (WORKERS * REAL_STEPS * TOKENS_A_STEP))
    calm, _, _ = await _run(folder / "calm", calm_rounds, leaves=False)
    if abs(_tokens(calm) / delivered - 1) > EQUAL:  # rounds may end before all their steps are made
        calm_rounds = round(calm_rounds * delivered / _tokens(calm))
        calm, _, _ = await _run(folder / "calm again", calm_rounds, leaves=False)
    return [*_story(rough, left, rounds), *_compared(rough, calm), *grown]


def _tokens(story: Story) -> int:
    return sum(record.tokens for record in story.records)


async def _run(folder: Path, rounds: int, *, leaves: bool) -> tuple[Story, int, list[Row]]:
    """What became of it, departures, and what processes that stayed held more of."""
    async with town(folder, config(WORKERS, rounds, REAL_STEPS, checkpoint_every=rounds), WORKERS) as site:
        chance, left, number = random.Random(0), 0, 0
        while not await site.complete():
            await site.revive()
            plan = await site.plan()
            if plan is not None and plan.round > number:
                number = plan.round
                if leaves and number < rounds - LAST:  # whoever is last to leave shall be back at the end
                    left += await _leaves(site, chance.choice(site.workers[1:]))
            await _return(site)
            await asyncio.sleep(POLL_S)
        grown = await _leaks(site)
        await site.farewell()
        return await told(site, 0.0), left, grown


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


def _story(story: Story, left: int, rounds: int) -> list[Row]:
    figures, anchors = story.metrics.rounds, story.anchors()
    assert figures is not None
    return [
        Row("churn real: rounds", len(story.records), "", f">= {rounds}"),
        Row(
            "churn real: departures",
            left,
            "",
            f">= {(rounds - LAST) * WORKERS * CHURN / 2:.0f}",
            f"{story.starts} starts of clients",
        ),
        Row("churn real: roots that differ from the assembler's", anchors.mismatches, f"of {anchors.compared}", "<= 0"),
        Row("churn real: workers with the last anchor", anchors.at_the_last, "", f">= {WORKERS}"),
        Row("churn real: tracebacks in logs", story.tracebacks, "", "<= 0"),
    ]


def _compared(rough: Story, calm: Story) -> list[Row]:
    """At about equal tokens; rounds are whole."""
    had, wanted = _tokens(rough), _tokens(calm)
    note = f"{rough.loss:.4f} and {calm.loss:.4f} nats; {had:,} tokens in {len(rough.records)} rounds, {wanted:,} in "
    above = 100 * (rough.loss / calm.loss - 1)
    return [Row("churn real: loss above the run without", above, "%", "<= 1", f"{note}{len(calm.records)}")]


async def _leaks(site: Site) -> list[Row]:
    """Of the server, and of the client and the engine that stayed."""
    commits = [record.committed_at for record in (await site.log_since(0))[0]]
    stays = site.workers[0]
    newest = [note for note in stays.notes() if note["pid"] == stays.notes()[-1]["pid"]]
    return [
        *leaks.growth("churn real: the server", leaks.at_rounds(site.holds(), commits)),
        *leaks.growth("churn real: a client that stays", leaks.at_rounds(stays.holds(), commits)),
        *leaks.growth("churn real: its engine", newest),
    ]
