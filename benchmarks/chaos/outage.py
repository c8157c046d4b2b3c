"""The coordinator is killed (-9) and stays away: who trains on, for how long, and what is lost of it."""

import asyncio
from pathlib import Path

from disturbed.story import told
from disturbed.volunteers import Site, Worker
from rows import Row

from chaos.town import SEQ_LEN, committed, config, in_round, more, town
from legion_client.agent.unsent import Unsent

WORKERS = 4
STEPS = 16  # H
ROUNDS = 12
AWAY_AT = 4  # rounds


def outage(folder: Path, away_s: float) -> list[Row]:
    return asyncio.run(_outage(folder, away_s))


def _waiting(worker: Worker) -> list[int]:
    """Numbers of the steps that it keeps for the server."""
    [path] = (worker.home / "state").glob("unsent-*.jsonl")
    return [record.step for _, record in Unsent(path).read()]


def _pids(site: Site) -> list[tuple[int, int]]:
    return [(worker.child.pid, *(engine.pid for engine in worker.engines)) for worker in site.workers]  # type: ignore[misc]


async def _outage(folder: Path, away_s: float) -> list[Row]:
    async with town(folder, config(WORKERS, ROUNDS, STEPS, checkpoint_every=ROUNDS), WORKERS) as site:
        await committed(site, AWAY_AT)
        plan = await in_round(site, all_of=site.workers)
        pids = _pids(site)
        await site.kill_server()
        await asyncio.sleep(away_s)
        beyond = [max(_waiting(worker), default=plan.first_step) - plan.first_step for worker in site.workers]
        before = len(await _log_of(site))
        restarts = sum(a != b for a, b in zip(pids, _pids(site), strict=True))
        await more(site, 1)
        restarts += sum(a != b for a, b in zip(pids, _pids(site), strict=True))
        while not await site.complete():  # noqa: ASYNC110  other processes make it so
            await asyncio.sleep(0.2)
        await site.farewell()
        story = await told(site, 0.0)
        left_out, counters = story.left_out(), story.metrics.rounds
        assert counters is not None
        made = {view.worker_id: view.tokens for view in story.metrics.workers}
        credited = {w.worker_id: story.committed(w, SEQ_LEN) for w in site.workers}
        lost = sum(max(0.0, made[worker] - credited[worker].delivered) for worker in made)
        twice = sum(max(0.0, credited[worker].delivered - made[worker]) for worker in made)
        bounded = sum(each.delivered - each.counted for each in credited.values())
        waits = [len(_waiting(worker)) for worker in site.workers]
        note = f"{away_s:.0f} s, {before} rounds before"
        return [
            Row("outage: workers or engines started anew", restarts, "", "<= 0", note),
            Row("outage: fewest steps since the last plan", min(beyond), "", f">= {STEPS + 1}", f"2H = {2 * STEPS}"),
            Row("outage: most of them", max(beyond), "steps", f"<= {2 * STEPS}"),
            Row("outage: tokens trained that are in no round", lost, "tokens", "<= 0", f"of {sum(made.values())}"),
            Row("outage: tokens that are in two", twice, "tokens", "<= 0"),
            Row("outage: tokens above what measured speed allows", bounded, "tokens", "", "whole run, not counted"),
            Row("outage: records still waiting at the end", sum(waits), "", "<= 0"),
            Row("outage: contributions left out", left_out.missing, f"of {left_out.of}", "", "they come with the next"),
            Row("outage: root mismatches", counters.counters.root_mismatches, "", "<= 0"),
            Row("outage: workers with the last anchor", story.anchors().at_the_last, "", f">= {WORKERS}"),
            Row("outage: tracebacks in logs", story.tracebacks, "", "<= 0"),
        ]


async def _log_of(site: Site) -> list[object]:
    """After the server has come back."""
    await site.start_server()
    return [*(await site.log_since(0))[0]]
