"""A member of a cluster of three lost in the middle of a step: what is noticed when, what is lost, when it goes on.

Killed, stopped, or out of reach: every packet of its engine is dropped, in a network namespace of this benchmark's own.
Detection is from the fault to the first survivor's word that the plan is broken; recovery from there to the survivors'
next committed step: what each has is told, a plan made, slices read and laid out anew, a step trained. Both come from
the engines' logs, which are read every 10 ms.
"""

import asyncio
import ctypes
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from disturbed.volunteers import Worker
from rows import Row

from chaos.town import SEQ_LEN, config, more, town

LOOK_S = 0.01
PATIENCE_S = 120.0
MEBI = 1 << 20
LARGE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6} | {
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
CLONE_NEWNET = 0x40000000
BROKEN = re.compile(r"plan broken epoch=(\d+)")
REPLACED = re.compile(r"plan replaced epoch=(\d+) members=(\d+) steps_lost=(-?\d+)")
GOES_ON = re.compile(r"goes on step=(\d+) after_s=([\d.]+)")


def lost(folder: Path) -> list[Row]:
    alone_in_the_network()
    ways: dict[str, Callable[[Worker], None]] = {"killed": killed, "stopped": stopped, "packets dropped": dropped}
    return [row for name, fault in ways.items() for row in asyncio.run(_lost(folder / name.split()[0], name, fault))]


def killed(worker: Worker) -> None:
    worker.kill()


def stopped(worker: Worker) -> None:
    worker.send(signal.SIGSTOP)


def dropped(worker: Worker) -> None:
    """Of the engine's connections and of new ones; its client still speaks to the server."""
    [engine] = worker.engines
    ports = {c.laddr.port for c in engine.net_connections("tcp")}
    for port in ports:
        for side in ("--dport", "--sport"):
            rule = ["INPUT", "-p", "tcp", side, str(port), "-j", "DROP"]
            subprocess.run(["iptables", "-I", *rule], check=True)


def alone_in_the_network() -> None:
    """From here on this process and its children have a loopback of their own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "a network namespace needs root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


async def _lost(folder: Path, name: str, fault: Callable[[Worker], None]) -> list[Row]:
    body = config(3)
    body["cluster"] = {"policy": "fixed", "size": 3}
    async with town(folder, body, 3) as site:
        await more(site, 3)
        victim, *left = sorted(site.workers, key=lambda worker: worker.worker_id)[::-1]
        logs = [log_of(worker) for worker in left]
        known = [len(log.read_text()) for log in logs]
        fault(victim)
        detected_s = await until(lambda: any(BROKEN.search(new(log, at)) for log, at in zip(logs, known, strict=True)))
        await until(lambda: all(GOES_ON.search(new(log, at)) for log, at in zip(logs, known, strict=True)))
        said = [new(log, at) for log, at in zip(logs, known, strict=True)]
        recovery_s = max(float(GOES_ON.search(text)[2]) for text in said)  # type: ignore[index]
        steps = max(int(REPLACED.search(text)[3]) for text in said)  # type: ignore[index]
        await more(site, 2)
        figures = (await site.metrics()).rounds
        assert figures is not None
        if name == "stopped":
            victim.send(signal.SIGCONT)
        per_step = SEQ_LEN * body["batch"]["micro_batch_blocks"] * body["batch"]["micro_batches"]
        return [
            Row(f"member {name}: detection", detected_s, "s", "", "torchft 0.2.0: 3 s, its heartbeat"),
            Row(f"member {name}: detection to the survivors' next step", recovery_s, "s", "<= 1", "the slower of two"),
            Row(f"member {name}: tokens lost", steps * per_step, "", "", f"{steps} steps since the restore point"),
            Row(f"member {name}: clusters lost", figures.counters.clusters_lost, "", "<= 0"),
            Row(f"member {name}: root mismatches", figures.counters.root_mismatches, "", "<= 0"),
        ]


def memory(folder: Path) -> list[Row]:
    """The peak of engines that keep a restore point every four steps, beside that of engines that keep none.

    Points are written from the slice in host memory, wherever is computed: a card's memory has no part in them.
    """
    with_points, owned, on_disk = asyncio.run(_peak(folder / "with", 4))
    without, _, _ = asyncio.run(_peak(folder / "without", 0))
    return [
        Row("restore points: an engine's peak more than without", (with_points - without) / MEBI, "MiB", "", ""),
        Row("the same, of the slice's elements", (with_points - without) / owned, "bytes each", "<= 12", "host memory"),
        Row("on disk: own points and the other's", on_disk / owned, "bytes each", "> 0", "two of each at most"),
        Row("peak without", without / MEBI, "MiB", "", f"a slice of {owned:,} elements"),
    ]


async def _peak(folder: Path, restore_every: int) -> tuple[int, int, int]:
    """Of the engine that had the most, in bytes; the elements of its slice; bytes of points on the disk of one."""
    body = config(2, steps=8)
    body["cluster"] = {"policy": "fixed", "size": 2, "restore_every": restore_every}
    body["model"]["settings"] = LARGE
    async with town(folder, body, 2) as site:
        await more(site, 3)
        plan = await site.plan()
        assert plan is not None
        points = [log_of(worker).read_text().count("restore point step=") for worker in site.workers]
        if restore_every and min(points) < 2:
            raise RuntimeError(f"only {points} restore points were kept")
        peaks = [_peak_bytes(worker.engines[0].pid) for worker in site.workers]
        on_disk = [_points_bytes(worker.home) for worker in site.workers]
    return max(peaks), sum(plan.shape.sizes) // 2, max(on_disk)


def _points_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in home.rglob("points/*") if path.is_file())


def _peak_bytes(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def log_of(worker: Worker) -> Path:
    return worker.home / "logs" / "engine.log"


def new(log: Path, since: int) -> str:
    return log.read_text()[since:]


async def until(fact: Callable[[], bool]) -> float:
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        while not fact():  # noqa: ASYNC110  other processes write
            await asyncio.sleep(LOOK_S)
    return time.monotonic() - began
