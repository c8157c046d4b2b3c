"""One worker after the other is killed (-9) at random and started again: who of the others stalls, and for how long.

A step takes a fixed time, longer than computing it does, and, as root, who is started again has a low priority until it
trains: what is measured is how long others wait for who is gone, not for a core while one more program starts on it.
"""

import asyncio
import os
import random
import statistics
import time
from pathlib import Path

from disturbed.story import Anchors, told
from disturbed.volunteers import POLL_S, Site, Worker
from rows import Row

from chaos.stalls import Kill, p95, stalls, undisturbed, usual
from chaos.town import config, more, town

EVERY_S = 15.0
CALM_S = 30.0  # before the first kill: what a usual step is, and what a busy machine makes of it
SLICE_S = 5.0  # of that time
START_S = 1.0  # after a kill, until the worker is started again
STEPS = 32
STEP_S = 0.15


def solo(folder: Path, seconds: float) -> list[Row]:
    return asyncio.run(_random(folder, "4 alone", 4, 1, seconds))


def clusters(folder: Path, seconds: float) -> list[Row]:
    return asyncio.run(_random(folder, "2 of 3", 6, 3, seconds))


async def _random(folder: Path, name: str, workers: int, size: int, seconds: float) -> list[Row]:
    body = config(workers, steps=STEPS)
    body["cluster"] = {"policy": "fixed", "size": size}
    async with town(folder, body, workers, STEP_S, behind=os.geteuid() == 0) as site:
        await more(site, 2)
        began = time.time()
        await asyncio.sleep(CALM_S)
        kills = await _killing(site, seconds)
        ended = time.time()
        await more(site, 2)
        await site.leave()
        story = await told(site, 0.0)
    notes = {worker.name: worker.steps() for worker in site.workers}
    usual_s = usual(notes, began, began + CALM_S)
    found = stalls(kills, notes, usual_s, ended)
    for stall in found:
        print(f"{stall.kill.at - began:6.1f} s {stall.kill.name} killed:", end=" ")
        print(f"{stall.name} stalls {stall.seconds:.2f} s, {stall.detected_s:.2f} s of it until somebody knew")
    noticed = [stall.detected_s for stall in found if stall.seconds > stall.detected_s]
    calm = undisturbed(notes, usual_s, began, began + CALM_S, SLICE_S)
    beyond = [stall.beyond_s for stall in found]
    assert story.metrics.rounds is not None
    counters = story.metrics.rounds.counters
    label = f"random kills, {name}"
    return [
        Row(f"{label}: kills", len(kills), "", f">= {seconds / EVERY_S / 2:.0f}", f"{seconds:.0f} s"),
        Row(f"{label}: stall beyond detection, p95", p95(beyond), "s", "<= 0.5", f"most {max(beyond):.2f} s"),
        Row(f"{label}: the same, median", statistics.median(beyond), "s"),
        Row(f"{label}: whole stall, p95", p95([s.seconds for s in found]), "s", "", "with detection"),
        Row(f"{label}: detection, p95", p95(noticed or [0.0]), "s", "", f"of {len(noticed)} kills, others cost nobody"),
        Row(f"{label}: stall without a kill", max(calm), "s", "", f"most in {CALM_S:.0f} s before the first"),
        Row(f"{label}: usual step", statistics.median(usual_s.values()), "s"),
        Row(f"{label}: rounds", len(story.records), "", ">= 1"),
        Row(f"{label}: clusters that went on", counters.clusters_regrouped, "", "", f"{counters.clusters_lost} lost"),
        Row(f"{label}: root mismatches, as the server saw", counters.root_mismatches, "", "<= 0"),
        *_roots(label, story.anchors(), size),
        Row(f"{label}: tracebacks in logs", story.tracebacks, "", "<= 0"),
    ]


def _roots(label: str, anchors: Anchors, size: int) -> list[Row]:
    """A member of a cluster of several writes down its slice's, which only the server can judge."""
    if size > 1:
        return []
    return [Row(f"{label}: roots that differ", anchors.mismatches, f"of {anchors.compared}", "<= 0")]


async def _killing(site: Site, seconds: float) -> list[Kill]:
    """Somebody who takes part, chosen by chance; started again, with the same home, after START_S."""
    chance, until = random.Random(0), time.monotonic() + seconds
    kills: list[Kill] = []
    while (now := time.monotonic()) < until:
        able = [worker for worker in site.workers if _trains(worker)]
        if able:
            victim = chance.choice(able)
            killed_at = time.time()
            victim.kill()
            kills.append(Kill(killed_at, time.time(), victim.name, victim.worker_id))
        await asyncio.sleep(START_S)
        while time.monotonic() < now + EVERY_S:
            await site.revive()
            for worker in site.workers:
                if worker.behind and _trains(worker):
                    worker.catch_up()
            await asyncio.sleep(POLL_S)
    return kills


def _trains(worker: Worker) -> bool:
    """The engine that lives has committed a step."""
    pids = {engine.pid for engine in worker.engines}
    return any(note["pid"] in pids for note in worker.steps()[-1:])
