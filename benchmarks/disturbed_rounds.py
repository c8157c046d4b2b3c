"""Rounds among workers that are killed, stopped and paused: are anchors equal, is the loss as good, does work count?

Real parts on this machine: a server, five clients with an engine each, clusters of one, TLS, Python's source as text.
Each worker sends its contributions with another codec.

rounds  the same run twice, undisturbed and disturbed. Every 5 rounds one who reduces a span of the current round gets
        kill -9, somewhere in the round: its engine and its whole client in turn. It is started again with the same
        home. Another worker is stopped (SIGSTOP) for 8 rounds. Each root that an engine reports is compared with what
        the assembler computed.
paused  one worker is stopped for 10 s of every 30 s, as one that reduces a span, and as one that reduces none. Finished
        are the tokens of all steps its engine has completed, by its own step records, until it is asked to leave at
        the end; committed those that round records count for its cluster, as the mean over the spans by their sizes.
        So what is under way at the end is finished and not committed.

python benchmarks/disturbed_rounds.py [--only rounds paused] [--rounds N] [--pause S] [--period S] [--periods N]
    [--seed N] [--folder FOLDER] [--json FILE]
"""

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from disturbed.story import Story, told
from disturbed.trouble import Disturbance, paused
from disturbed.volunteers import POLL_S, Site
from rows import Row, parser, show, status_of

from legion_server.up.processes import Children

CODECS = ("int8", "int4", "onebit", "topk64", "none")  # of the workers' contributions
SLEEPER = 2  # sends 1-bit values
PAUSED_CODEC = "int4"
KILL_EVERY = 5  # rounds
SLEEP_ROUNDS = 8
SPARE_ROUNDS = 15  # for the worker that is killed last
SEQ_LEN = 128
UNLIMITED = 100_000  # rounds, more than any machine makes


def config(rounds: int, workers: int, **of_rounds: Any) -> dict[str, Any]:
    """133,000 parameters: what a process costs to start, and not arithmetic, shall decide how long this takes."""
    narrow = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 2, "num_key_value_heads": 2}
    steps = 16
    return {
        "steps": rounds * steps,
        "model": {"preset": "tiny", "settings": narrow | {"num_hidden_layers": 2}},
        "data": {"source": "python_stdlib", "seq_len": SEQ_LEN},
        "batch": {"micro_batch_blocks": 4, "micro_batches": 2},
        "optimizer": {"lr": 4e-3},
        "cluster": {"policy": "fixed", "size": 1},
        "start": {"workers": workers},
        "rounds": {"steps": steps, "grace_s": 2.0, "log_keep": UNLIMITED, "codec": "auto"} | of_rounds,
    }


async def run(folder: Path, options: Namespace, disturbance: Disturbance | None) -> Story:
    async with Children(_quiet, folder / "logs") as children:
        site = Site(folder, children)
        body = config(options.rounds, len(CODECS), checkpoint_every=5, deadline_s=20.0)
        await site.open(body | {"seed": options.seed})
        for codec in CODECS:
            await site.join(codec)
        await site.planned()
        started = time.monotonic()
        while not await site.complete():
            await site.revive()
            plan = await site.plan()
            if disturbance is not None and plan is not None:
                await disturbance.act(site, plan)
            await asyncio.sleep(POLL_S)
        took_s = time.monotonic() - started
        await site.farewell()
        return await told(site, took_s)


def rounds(folder: Path, options: Namespace) -> list[Row]:
    disturbance = Disturbance(
        rounds=options.rounds,
        kill_every=KILL_EVERY,
        sleeper=SLEEPER,
        sleep_from=options.rounds * 2 // 5,
        sleep=SLEEP_ROUNDS,
        spare=SPARE_ROUNDS,
        chance=random.Random(options.seed),
    )
    calm = asyncio.run(run(folder / "undisturbed", options, None))
    rough = asyncio.run(run(folder / "disturbed", options, disturbance))
    reducers = len({kill.worker for kill in disturbance.kills})
    return [
        *_story_rows("undisturbed", calm, options.rounds),
        Row(
            "disturbed: reducers killed", len(disturbance.kills), "", f">= {disturbance.planned}", f"{reducers} workers"
        ),
        Row("disturbed: stopped for some rounds", int(disturbance.slept_from is not None), "worker", ">= 1"),
        *_story_rows("disturbed", rough, options.rounds),
        Row("disturbed: loss above the undisturbed run's", 100 * (rough.loss / calm.loss - 1), "%", "<= 1"),
        Row("load", os.getloadavg()[0], "", "", f"{os.cpu_count()} cores"),
    ]


def _story_rows(name: str, story: Story, wanted: int) -> list[Row]:
    figures, anchors, left_out = story.metrics.rounds, story.anchors(), story.left_out()
    assert figures is not None
    counters = figures.counters
    between = [b.committed_at - a.committed_at for a, b in zip(story.records, story.records[1:], strict=False)]
    return [
        Row(f"{name}: rounds", len(story.records), "", f">= {wanted}"),
        Row(f"{name}: roots that differ from the assembler's", anchors.mismatches, f"of {anchors.compared}", "<= 0"),
        Row(f"{name}: root mismatches in /metrics", counters.root_mismatches, "", "<= 0"),
        Row(f"{name}: workers with the last anchor", anchors.at_the_last, "", f">= {len(CODECS)}"),
        Row(f"{name}: terms raised", counters.terms_raised, ""),
        Row(f"{name}: clusters lost", counters.clusters_lost, "", "", f"{story.starts} starts of clients"),
        Row(f"{name}: contributions left out", left_out.missing, f"of {left_out.of}"),
        Row(f"{name}: tokens counted", figures.tokens, ""),
        Row(f"{name}: wall time", story.wall_s, "s", "", f"median round {statistics.median(between):.1f} s"),
        Row(f"{name}: tracebacks in logs", story.tracebacks, "", "<= 0"),
        Row(f"{name}: validation loss of the last anchor", story.loss, "nats/byte"),
    ]


async def pausing(folder: Path, options: Namespace, *, reduces: bool) -> tuple[Story, list[float]]:
    """Of the paused worker: finished, counted and delivered tokens; it is the last one to join."""
    async with Children(_quiet, folder / "logs") as children:
        site = Site(folder, children)
        await site.open(config(UNLIMITED, len(CODECS) - (not reduces)) | {"seed": options.seed})
        *others, _ = CODECS
        for codec in others:
            await site.join(codec)
        if not reduces:  # there are as many spans as workers at the start
            await site.planned()
        worker = await site.join(PAUSED_CODEC)
        await site.planned()
        started = time.monotonic()
        await paused(site, worker, pause_s=options.pause, period_s=options.period, periods=options.periods)
        await site.leave()
        story = await told(site, time.monotonic() - started)
        finished = next(view.tokens for view in story.metrics.workers if view.worker_id == worker.worker_id)
        return story, [finished, *story.committed(worker, SEQ_LEN)]


def pauses(folder: Path, options: Namespace) -> list[Row]:
    found = []
    for name, reduces in (("paused, reduces a span", True), ("paused, reduces none", False)):
        story, (finished, counted, delivered) = asyncio.run(pausing(folder / name, options, reduces=reduces))
        figures, anchors = story.metrics.rounds, story.anchors()
        assert figures is not None
        counters = figures.counters
        note = f"{options.periods} pauses of {options.pause:g} s in {options.period:g} s, {len(story.records)} rounds"
        found += [
            Row(f"{name}: committed of its finished tokens", 100 * counted / finished, "%", ">= 90", note),
            Row(f"{name}: finished", finished, "tokens"),
            Row(f"{name}: of them in included contributions", 100 * delivered / finished, "%"),
            Row(f"{name}: tokens beyond what plans allow", counters.uncounted_tokens, "", "", "all workers'"),
            Row(
                f"{name}: roots that differ from the assembler's", anchors.mismatches, f"of {anchors.compared}", "<= 0"
            ),
            Row(f"{name}: tracebacks in logs", story.tracebacks, "", "<= 0"),
        ]
    return found


def _quiet(_name: str, _line: str) -> None:
    """What processes say is in their logs."""


PARTS = {"rounds": rounds, "paused": pauses}


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    made.add_argument("--rounds", type=int, default=100)
    made.add_argument("--pause", type=float, default=10.0, metavar="S")
    made.add_argument("--period", type=float, default=30.0, metavar="S", help="of which --pause is the last part")
    made.add_argument("--periods", type=int, default=6)
    made.add_argument("--seed", type=int, default=0, help="of the run, and of who is killed when")
    made.add_argument("--folder", type=Path, help="for logs and data, which then stay; default: a temporary one")
    options = made.parse_args()
    if options.rounds <= SPARE_ROUNDS + KILL_EVERY or not 0 < options.pause < options.period:
        made.error(f"it takes more than {SPARE_ROUNDS + KILL_EVERY} rounds, and pauses shorter than their period")
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only:
            found += PARTS[name](options.folder or Path(temporary), options)
    return show("Disturbed rounds", found, options.json)


if __name__ == "__main__":
    sys.exit(status_of(main))
