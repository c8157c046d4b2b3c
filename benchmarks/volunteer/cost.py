"""What a process costs while it does nothing: processor, wake-ups, memory. Linux, and perf for the wake-ups.

perf counts the switches of threads, those included that begin and end meanwhile; /proc only knows living ones.
A thread that others push off the processor is switched too, without having slept: on a computer that has much else to
do these are half of all.
"""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from legion.errors import Unusable

ENGINE = "legion_client.engine"
SWITCHED, SLEPT, BUSY = "context-switches", "sched:sched_switch", "task-clock"
IS_ASLEEP = "prev_state > 0 && prev_state < 256"  # not running, nor pushed off


class Cost(NamedTuple):
    """Of one process and all its threads."""

    cpu_percent: float  # of one core
    wakeups_per_s: float  # context switches, voluntary and not
    slept_per_s: float  # the voluntary ones
    rss_mb: float  # MB of 2**20 bytes, as ps and top count
    own_mb: float  # PSS: pages shared with others count in part


def costs(pids: Mapping[str, int], seconds: float) -> dict[str, Cost]:
    """Of all of them at the same time."""
    watches = {name: _watch(pid, seconds) for name, pid in pids.items()}
    counted = {name: watch.communicate()[1] for name, watch in watches.items()}
    return {name: _cost(counted[name], pid, seconds) for name, pid in pids.items()}


def _watch(pid: int, seconds: float) -> "subprocess.Popen[str]":
    counters = ["-x,", "-e", SWITCHED, "-e", BUSY, "-e", SLEPT, "--filter", IS_ASLEEP]
    command = ["perf", "stat", *counters, "-p", str(pid), "--", "sleep", str(seconds)]
    try:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise Unusable("perf is not installed", hint="apt-get install linux-perf") from error


def _cost(counted: str, pid: int, seconds: float) -> Cost:
    values = {line.split(",")[2]: line.split(",")[0] for line in counted.splitlines() if line.count(",") > 2}
    try:
        switches, slept, busy_ms = (float(values[event]) for event in (SWITCHED, SLEPT, BUSY))
    except (KeyError, ValueError) as error:
        raise Unusable(f"perf does not count process {pid}: {counted.strip()}", hint="Run it as root.") from error
    memory = psutil.Process(pid).memory_full_info()
    return Cost(busy_ms / seconds / 10, switches / seconds, slept / seconds, memory.rss / 2**20, memory.pss / 2**20)


def engines(pids: Sequence[int]) -> int:
    """That these processes have started and that live."""
    found = 0
    for pid in pids:
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += ENGINE in process.cmdline()
    return found


def boinc(folder: Path) -> list[str]:
    """BOINC's client without a project, its data in `folder`, as its package's service starts it."""
    folder.mkdir(parents=True)
    return ["boinc", "--dir", str(folder), "--no_gpus", "--gui_rpc_port", "31499"]
