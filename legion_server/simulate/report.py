"""What a simulation says in the end: tables for people, a JSON file, and a plot."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from legion.checkpoint.storage import new_file
from legion_server.simulate.course import Course, Point
from legion_server.simulate.options import Options

FP32_BITS: Final = 32
# Of what each participant sends, against the exchange of fp32 gradients in every step.
PUBLISHED: Final = "INTELLECT-1: 400x; SparseLoCo, upload alone, H = 30: 4,400x"


def say(name: str, point: Point) -> None:
    """A line of progress."""
    trained = "" if point.train_loss is None else f", in training {point.train_loss:.3f}"
    line = f"{name:<12} round {point.round + 1}: {point.time_s:,.1f} s, {point.tokens:,} tokens, loss {point.loss:.3f}"
    Console(highlight=False, soft_wrap=True).print(line + trained)


def bits(course: Course, values: float, rounds: int) -> dict[str, float]:
    """Over the internet, mean bits a parameter, worker and round; `values`: parameters of a worker's slice."""
    table = course.bytes_by_kind()
    seeding = table["checkpoint"]["up_mean"]
    means = {
        "contribution_up": table["contribution"]["up_mean"],
        "update_down": table["serving"]["down_mean"] + table["join"]["down_mean"],
        "total_up": table["internet"]["up_mean"] - seeding,
        "total_down": table["internet"]["down_mean"],
        "storage_up": seeding,
    }
    return {name: size * 8 / values / max(1, rounds) for name, size in means.items()}


def ratios(found: Mapping[str, float], steps: int) -> dict[str, float]:
    """How much less than fp32 gradients in every step, for rounds of `steps`."""
    per_round = FP32_BITS * steps
    return {name: per_round / found[name] for name in ("contribution_up", "total_up", "total_down") if found[name]}


def as_json(options: Options, courses: Mapping[str, Course], facts: Mapping[str, Any]) -> bytes:
    """The same bytes for the same options and seed, on machines that compute alike."""
    asked = {name: getattr(options, name) for name in Options.__dataclass_fields__ if name not in ("report", "plot")}
    content = {"options": asked, **facts} | {name: course.as_json() for name, course in courses.items()}
    return json.dumps(content, indent=1).encode() + b"\n"


def write(path: Path, content: bytes) -> None:
    """Whole or not at all. StorageFailed."""
    with new_file(path.absolute()) as sink:
        sink.write(content)


def runs_table(courses: Mapping[str, Course]) -> Table:
    table = Table("run", "held-out loss", "tokens", "virtual time", "utilisation", title="Runs")
    for name, course in courses.items():
        last = course.points[-1]
        table.add_row(
            name, f"{last.loss:.4f}", f"{last.tokens:,}", f"{last.time_s:,.1f} s", f"{course.utilisation:.1%}"
        )
    return table


def bytes_table(course: Course) -> Table:
    table = Table("kind", "up, mean", "up, most", "down, mean", "down, most", title="Bytes of a worker, whole run")
    for kind, row in course.bytes_by_kind().items():
        if any(row.values()):
            table.add_row(kind, *(f"{row[column]:,.0f}" for column in ("up_mean", "up_max", "down_mean", "down_max")))
    return table


def ratios_table(found: Mapping[str, float], less: Mapping[str, float], steps: int) -> Table:
    table = Table("", "bits a parameter and round", f"less than fp32 in each of {steps} steps", title="Rounds")
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}", f"{less[name]:,.0f}x" if name in less else "")
    table.caption = f"Over the internet; storage up is not in total up. Published: {PUBLISHED}"
    return table
