"""kill -9: of a cluster of one, of a reducer, of half of all workers. Restore points have scenarios of their own."""

import asyncio
import itertools
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from disturbed.volunteers import Site, Worker
from rows import Row

from chaos.town import CODEC, GRACE_S, committed, config, in_round, longest_stall, more, took, town, usual
from legion.rounds import RoundPlan
from legion_server.domain.rounds import PATIENCE

BEFORE = 4  # rounds that nobody disturbs, to know how long one takes
SLACK_S = 1.5  # the server looks once a second
SETTLED_S = 0.5  # a step that was on its way when somebody was killed is not a sign of anything


def solo(folder: Path) -> list[Row]:
    """One that reduces no span: it joins when the spans have their reducers."""
    return asyncio.run(_solo(folder))


async def _solo(folder: Path) -> list[Row]:
    async with town(folder, config(3), 3) as site:
        victim = await site.join(CODEC)
        async with asyncio.timeout(240):
            await site.planned()
        plan = await _after(site, BEFORE, victim)
        await asyncio.sleep(usual(await committed(site, 2), plan.round) / 2)
        victim.kill()
        killed_at = time.time()
        records = await more(site, 3)
        its = next(record.round for record in records if record.committed_at > killed_at)
        usual_s = usual(records, its)
        late = [took_s - usual_s for took_s in took(records[its - 1 :])]
        reduces = sum(plan.reducer(span) == victim.worker_id for span in range(len(plan.spans)))
        included = {inclusion.cluster for inclusion in records[its + 1].spans[0].included}
        its_cluster = next(p.cluster for p in plan.participants if p.members[0].worker_id == victim.worker_id)
        return [
            Row("solo killed: its round late by", late[0], "s", f"<= {GRACE_S + SLACK_S}", f"usual {usual_s:.1f} s"),
            Row(
                "solo killed: the round after late by",
                late[1],
                "s",
                f"<= {GRACE_S + SLACK_S}",
                "its place is waited for",
            ),
            Row("solo killed: others in the round after", len(included - {its_cluster}), "", ">= 3"),
            Row("solo killed: spans that it reduced", reduces, "", "<= 0"),
        ]


async def _after(site: Site, rounds: int, *workers: Worker) -> RoundPlan:
    """A round that begins, so many rounds from now, in which these count."""
    await more(site, rounds)
    return await in_round(site, all_of=workers)


def reducer(folder: Path) -> list[Row]:
    """Before it has its span's update out: it is stopped first, so that nothing of the round is reduced by it."""
    return asyncio.run(_reducer(folder))


async def _reducer(folder: Path) -> list[Row]:
    async with town(folder, config(4), 4) as site:
        plan = await _after(site, BEFORE, *site.workers)
        victim = next(w for w in site.workers if w.worker_id == plan.reducer(0))
        victim.send(signal.SIGSTOP)
        await asyncio.sleep(0.2)
        victim.kill()
        records = await more(site, 3)
        usual_s, [its_s, *_] = usual(records, plan.round), took(records[plan.round - 1 :])
        timeout_s = plan.deadline_s * PATIENCE + GRACE_S
        record = next(record for record in records if record.round == plan.round)
        figures = (await site.metrics()).rounds
        assert figures is not None
        note = f"usual {usual_s:.1f} s; one timeout is {timeout_s:.1f} s"
        return [
            Row("reducer killed: its round late by", its_s - usual_s, "s", f"<= {timeout_s + SLACK_S:.1f}", note),
            Row("reducer killed: term of its span", record.spans[0].term, "", ">= 1"),
            Row("reducer killed: root mismatches", figures.counters.root_mismatches, "", "<= 0"),
        ]


def half(folder: Path) -> list[Row]:
    """Four of eight, in one moment."""
    return asyncio.run(_half(folder))


async def _half(folder: Path) -> list[Row]:
    async with town(folder, config(8), 8) as site:
        plan = await _after(site, 2, *site.workers)
        records = (await site.log_since(0))[0]
        for worker in site.workers[::2]:
            worker.kill()
        killed_at = time.time()
        stall_s = await longest_stall(site, 90.0)
        records = await more(site, 2)
        after = [record for record in records if record.committed_at > killed_at]
        figures = (await site.metrics()).rounds
        assert figures is not None
        return [
            Row(
                "half of 8 killed: longest without a step",
                stall_s,
                "s",
                "<= 30",
                f"usual round {usual(records, plan.round):.1f} s",
            ),
            Row(
                "half of 8 killed: to the next commit", after[0].committed_at - killed_at, "s", "", "reducers' timeout"
            ),
            Row(
                "half of 8 killed: rounds in the 90 s after",
                sum(r.committed_at < killed_at + 90 for r in after),
                "",
                ">= 1",
            ),
            Row("half of 8 killed: root mismatches", figures.counters.root_mismatches, "", "<= 0"),
        ]


def adjacent(folder: Path) -> list[Row]:
    """Two neighbours of each of two clusters of four: who owned a slice, and who had its copy."""
    return asyncio.run(_adjacent(folder))


async def _adjacent(folder: Path) -> list[Row]:
    body = config(8)
    body["cluster"] = {"policy": "fixed", "size": 4}
    async with town(folder, body, 8) as site:
        plan = await _after(site, 2, *site.workers)
        killed_at = time.time()
        for participant in plan.participants:
            victims = {member.worker_id for member in participant.members[1:3]}
            for worker in site.workers:
                if worker.worker_id in victims:
                    worker.kill()
        await asyncio.sleep(90.0)
        steps = sorted(note["at"] for worker in site.workers for note in worker.steps() if "step" in note)
        after = [at for at in steps if at > killed_at + SETTLED_S]
        records = (await site.log_since(0))[0]
        figures = (await site.metrics()).rounds
        assert figures is not None
        usual_s = usual(records, plan.round)
        commits = [r.committed_at - killed_at for r in records if r.committed_at > killed_at]
        return [
            Row("2 of each 4 killed: next step", min(after, default=math.inf) - killed_at, "s", "<= 30"),
            Row("2 of each 4 killed: longest without a step", _longest(steps, killed_at, 90), "s", "<= 30"),
            Row("2 of each 4 killed: next commit", commits[0], "s", "", f"usual round {usual_s:.1f} s"),
            Row("2 of each 4 killed: rounds in the 90 s after", len(commits), "", ">= 1"),
            Row("2 of each 4 killed: clusters lost", figures.counters.clusters_lost, ""),
            Row("2 of each 4 killed: root mismatches", figures.counters.root_mismatches, "", "<= 0"),
        ]


def _longest(moments: Sequence[float], since: float, within_s: float) -> float:
    """Between two of these moments, in so many seconds from `since`."""
    inside = [at for at in moments if since <= at <= since + within_s]
    return max(b - a for a, b in itertools.pairwise([since, *inside, since + within_s]))
