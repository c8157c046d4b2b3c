"""The main job as a user runs it: `legion-server up` in processes of its own, judged by its report.

run     `up` as it is by default, two clusters of two that average by rounds: wall time and validation loss on held-out
        files
one     `up --workers 2`, one cluster: the same
exact   `up --verify --codec none --steps 50` with 2 and 3 workers: exit code 0 means that every step's loss and
        gradient norm is within 1e-5 of one process with torch.optim.AdamW, and the weights within 1e-4
whole   `up --verify` over the whole default run, codecs none and int8: validation loss against the single process
resume  `up --workers 2`, its engines killed with kill -9 after a checkpoint, `up --resume` with the same workers: each
        step's loss against a run that nobody killed (static claims)

python benchmarks/main_job.py [--only run one exact whole resume] [--json FILE]
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from rows import Row, parser, show


def up(folder: Path, *flags: str) -> tuple[int, str, float, dict[str, Any]]:
    """Exit code, output, seconds, report."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "legion_server", "up", "--port", "0"]
    command += ["--data-dir", str(folder / "data"), "--report", str(report), *flags]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    took_s = time.perf_counter() - started
    return done.returncode, done.stdout + done.stderr, took_s, json.loads(report.read_text()) if report.exists() else {}


def figures(output: str) -> Iterator[tuple[str, float, float]]:
    """Name, value and bound of the table that --verify prints."""
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split("│")]
        if len(cells) >= 5 and cells[3].startswith("<="):
            yield cells[1], float(cells[2]), float(cells[3].removeprefix("<= "))


def run(folder: Path, *flags: str) -> list[Row]:
    code, _, took_s, report = up(folder, *flags)
    note = f"bigram entropy {report['bigram_entropy']:.3f}, {report['steps']} steps, {report['tokens']:,} tokens"
    name = " ".join(["up", *flags])
    return [
        Row(f"{name}: exit code", code, "", "<= 0"),
        Row(f"{name}: wall time", took_s, "s", "<= 180"),
        Row(f"{name}: validation loss", report["validation_loss"], "nats per byte", "<= 1.95", note),
    ]


def one(folder: Path) -> list[Row]:
    return run(folder, "--workers", "2")


def exact(folder: Path) -> list[Row]:
    rows = []
    for workers in (2, 3):
        code, output, _, _ = up(folder / str(workers), "--verify", "--steps", "50", "--workers", str(workers))
        rows.append(Row(f"verify, {workers} workers: exit code", code, "", "<= 0"))
        rows += [
            Row(f"verify, {workers} workers: {name}", value, "", f"<= {bound:g}")
            for name, value, bound in figures(output)
        ]
    return rows


def whole(folder: Path) -> list[Row]:
    rows = []
    for codec, bound in (("none", 0.005), ("int8", 0.01)):
        code, output, _, _ = up(folder / codec, "--verify", "--codec", codec)
        found = [value for name, value, _ in figures(output) if name.startswith("validation")]
        rows.append(Row(f"whole run, codec {codec}: exit code", code, "", "<= 0"))
        rows.append(Row(f"whole run, codec {codec}: validation loss apart", max(found), "relative", f"<= {bound}"))
    return rows


def resume(folder: Path) -> list[Row]:
    flags = ["--workers", "2", "--set", "checkpoint.every_steps=20", "--set", "cluster.claims=static", "--steps", "60"]
    _, _, _, whole_run = up(folder / "whole", *flags)
    command = [sys.executable, "-m", "legion_server", "up", "--port", "0", "--data-dir", str(folder / "cut" / "data")]
    killed = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert killed.stdout is not None
    for line in killed.stdout:
        if "checkpoint assembled step=20" in line:
            kill_everything(killed.pid)
            break
    killed.wait()
    code, output, _, resumed = up(folder / "cut", "--resume")
    resumed_from = int(re.findall(r"resuming \S+ from step (\d+)", output)[0])
    reference = {step["step"]: step["loss"] for step in whole_run["per_step"]}
    again = [step for step in resumed["per_step"] if step["step"] > resumed_from]
    apart = [abs(step["loss"] - reference[step["step"]]) / reference[step["step"]] for step in again]
    note = f"steps {again[0]['step']} to {again[-1]['step']}"
    return [
        Row("resume after kill -9: exit code", code, "", "<= 0"),
        Row("resume after kill -9: largest difference of a step's loss", max(apart), "relative", "<= 1e-05", note),
    ]


def kill_everything(pid: int) -> None:
    """kill -9 of a process and all it started, children first noted, so that none is left."""
    family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    for process in family:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(family[:-1], timeout=10)


PARTS = {"run": run, "one": one, "exact": exact, "whole": whole, "resume": resume}


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    options = arguments.parse_args()
    rows: list[Row] = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            rows += PARTS[name](Path(folder))
    return show("The main job", rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
