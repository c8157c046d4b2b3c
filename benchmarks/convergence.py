"""What averaging by rounds costs in loss, by codec: solo and synchronous are the two ends, G is the gap closed.

Every run is a row of a JSON file and is never made twice, so that the grid can be worked off in pieces. One thread.

python benchmarks/convergence.py [--list] [--only TEXT ...] [--minutes M] [--smoke] [--results FILE] [--json FILE]
"""

import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Read when torch is imported: with two threads on a busy machine a run takes longer, not shorter.
os.environ["OMP_NUM_THREADS"] = "1"

from convergence.arms import Arm, Run, around, config_of, core, queue, smoke
from convergence.table import figures, tables
from convergence.training import train
from rich.console import Console
from rows import parser, show

from legion.data.prepare import Prepared, prepare
from legion.errors import LegionError

RESULTS = Path(__file__).parent / "results" / "convergence.json"
WINNER = "int4"  # what the single factors are varied around


class Log:
    """The JSON file: one row a run, written after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        self.results: dict[str, dict[str, Any]] = {json.dumps(row["run"], sort_keys=True): row for row in rows}

    def add(self, run: Run, result: dict[str, Any]) -> None:
        self.results[run.key] = {"run": json.loads(run.key), "label": run.label, **result}
        temporary = self._path.with_suffix(".partial")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in self.results.values())
        temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        temporary.replace(self._path)


def made(run: Run, scale: str, folder: Path) -> dict[str, Any]:
    """The run's row; a run that fails has one too."""
    try:
        return train(run, scale, data(scale, folder), folder)
    except LegionError as error:
        return {"failed": f"{error.slug}: {error}"}


@functools.cache
def data(scale: str, folder: Path) -> Prepared:
    """The same held-out files for every run."""
    run = smoke()[0]
    return prepare(config_of(run, scale).data, seed=0, folder=folder)


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--results", type=Path, metavar="FILE", help=f"the runs; default {RESULTS.name}")
    arguments.add_argument("--only", nargs="+", metavar="TEXT", help="runs whose label has all of these")
    arguments.add_argument("--list", action="store_true", help="show the runs and what is done, make none")
    arguments.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this time")
    arguments.add_argument("--smoke", action="store_true", help="a tiny grid in seconds; its figures mean nothing")
    options = arguments.parse_args()
    scale = "smoke" if options.smoke else "full"
    with tempfile.TemporaryDirectory() as folder:
        results = options.results or (Path(folder) / "smoke.json" if options.smoke else RESULTS)
        log = Log(results)
        core_arms = core()
        winner = next(arm for arm in core_arms if arm.name == WINNER)
        arms = [run.arm for run in smoke()] if options.smoke else core_arms + around(winner)
        started = time.monotonic()
        # Which rate the other seeds get follows from the trials, so what is to do is asked for again after each run.
        while todo := [run for run in wanted(arms, log, options) if run.key not in log.results]:
            if options.list or time.monotonic() - started > options.minutes * 60:
                break
            log.add(todo[0], made(todo[0], scale, Path(folder)))
            print(f"{todo[0].label}: {log.results[todo[0].key].get('loss', 'failed')}", flush=True)
    if options.list:
        for run in wanted(arms, log, options):
            print("done" if run.key in log.results else "    ", run.label)
        return 0
    for table in tables(arms, log.results):
        Console(width=160).print(table)
    return show("Averaging by rounds", figures(log.results), options.json)


def wanted(arms: list[Arm], log: Log, options: Any) -> list[Run]:
    grid = len(core())  # all of it before the single factors
    runs = smoke() if options.smoke else queue(arms[:grid], log.results) + queue(arms[grid:], log.results)
    return [run for run in runs if all(text in run.label for text in options.only or ())]


if __name__ == "__main__":
    sys.exit(main())
