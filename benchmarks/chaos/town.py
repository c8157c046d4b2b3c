"""A run of real processes for a scenario: a server, clients with an engine each, and what the log says of time."""

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from disturbed.volunteers import POLL_S, Site, Worker

from legion.rounds import RoundPlan, RoundRecord
from legion_server.up.processes import Children

GRACE_S = 2.0
CODEC = "int4"
UNLIMITED = 100_000  # rounds, more than any machine makes
SEQ_LEN = 128
PATIENCE_S = 240.0  # for anything that must come
NARROW = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 2, "num_key_value_heads": 2}


def config(workers: int, rounds: int = UNLIMITED, steps: int = 16, **of_rounds: Any) -> dict[str, Any]:
    """133,000 parameters in clusters of one: what processes cost, and not arithmetic, shall decide."""
    return {
        "steps": rounds * steps,
        "model": {"preset": "tiny", "settings": NARROW | {"num_hidden_layers": 2}},
        "data": {"source": "python_stdlib", "seq_len": SEQ_LEN},
        "batch": {"micro_batch_blocks": 4, "micro_batches": 2},
        "optimizer": {"lr": 4e-3},
        "cluster": {"policy": "fixed", "size": 1},
        "start": {"workers": workers},
        "evaluation": {"max_blocks": 8, "sample_tokens": 0},
        "rounds": {"steps": steps, "grace_s": GRACE_S, "log_keep": UNLIMITED, "audit": 0.0, "codec": CODEC} | of_rounds,
    }


@contextlib.asynccontextmanager
async def town(
    folder: Path, body: dict[str, Any], workers: int, step_s: float = 0.0, *, behind: bool = False
) -> AsyncIterator[Site]:
    """All of them train in one plan. `step_s`, `behind`: see `Site`."""
    async with Children(lambda _name, _line: None, folder / "logs") as children:
        site = Site(folder, children, step_s, behind=behind)
        await site.open(body)
        for _ in range(workers):
            await site.join(CODEC)
        async with asyncio.timeout(PATIENCE_S):
            await site.planned()
        yield site


async def committed(site: Site, count: int) -> list[RoundRecord]:
    """The log, once it has so many rounds."""
    async with asyncio.timeout(PATIENCE_S):
        while len(records := (await site.log_since(0))[0]) < count:  # noqa: ASYNC110  another process counts
            await asyncio.sleep(POLL_S)
    return records


async def more(site: Site, count: int) -> list[RoundRecord]:
    """The log, once so many more rounds than now are in it."""
    return await committed(site, len((await site.log_since(0))[0]) + count)


async def in_round(site: Site, *, all_of: Sequence[Worker] = ()) -> RoundPlan:
    """The plan of a round that begins now, and in which these count."""
    before = await site.plan()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            plan = await site.plan()
            if plan is not None and (before is None or plan.round > before.round):
                counted = {m.worker_id for p in plan.participants if p.most_tokens > 0 for m in p.members}
                if counted >= {worker.worker_id for worker in all_of}:
                    return plan
                before = plan
            await asyncio.sleep(POLL_S / 4)


def took(records: Sequence[RoundRecord]) -> list[float]:
    """Seconds from each commit to the next."""
    return [b.committed_at - a.committed_at for a, b in itertools.pairwise(records)]


def usual(records: Sequence[RoundRecord], before: int) -> float:
    """Of the rounds before this one, but for the first, in which everybody starts; the median."""
    return statistics.median(took([record for record in records if 0 < record.round < before]))


async def tokens(site: Site) -> int:
    """That steps were made on, as far as workers have told."""
    return sum(view.tokens for view in (await site.metrics()).workers)


async def longest_stall(site: Site, seconds: float) -> float:
    """In so many seconds from now: without a step that anybody reports. Reports come once a second."""
    longest, last, began = 0.0, time.monotonic(), time.monotonic()
    known = await tokens(site)
    while time.monotonic() - began < seconds:
        await asyncio.sleep(POLL_S)
        found = await tokens(site)
        if found > known:
            longest, last, known = max(longest, time.monotonic() - last), time.monotonic(), found
    return max(longest, time.monotonic() - last)
