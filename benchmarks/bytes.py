"""Bytes of a round by kind, simulated, and how much less they are than fp32 gradients in every step.

Rounds of sparse contributions (`topk`, 1.56 %) and sparse updates between clusters of one, as of a model of 1.2B
parameters. A run's last round is a dense flush; what an ordinary round costs is half the difference between a run of
three and a run of one. How many steps a round has changes nothing but heartbeats, so few are made.

python benchmarks/bytes.py [--participants N ...] [--json FILE]
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

from rows import Row, parser, show

from legion import logs
from legion.errors import LegionError
from legion.sim.network import KINDS
from legion_server.simulate.course import Course, Point
from legion_server.simulate.options import Options
from legion_server.simulate.report import FP32_BITS
from legion_server.simulate.run import Simulation

PARAMETERS = 1.2e9
H = 32  # steps of a round, for the ratios
STEPS = 2  # that are made
FLUSH_EVERY = 16  # rounds
SETTINGS = (
    "data.seq_len=16",
    "batch.micro_batch_blocks=1",
    "batch.micro_batches=1",
    f"rounds.steps={STEPS}",
    "rounds.density=0.015625",
    "rounds.update_codec=topk240x4",
)


def course(participants: int, rounds: int, folder: Path) -> Course:
    options = Options(
        workers=participants,
        dataset="distributed_dummy",
        compress="topk",
        steps=STEPS * rounds,
        devices="4090",
        bandwidth="10000/10000",  # bytes do not depend on it, and no deadline passes
        parameters=PARAMETERS,
        settings=SETTINGS,
    )
    return Simulation(options, folder, _quiet).distributed()


def _quiet(_name: str, _point: Point) -> None:
    """A benchmark prints its table."""


def spent(found: Course) -> dict[str, float]:
    """Bits a parameter in the whole run; mean of all workers, but for `most`."""
    table, bits = found.bytes_by_kind(), 8 / PARAMETERS
    every = {f"{kind}, {way}": table[kind][f"{way}_mean"] * bits for kind in KINDS for way in ("up", "down")}
    return every | {
        "update down": table["serving"]["down_mean"] * bits,
        "total up": (table["total"]["up_mean"] - table["checkpoint"]["up_mean"]) * bits,
        "total up, most": (table["total"]["up_max"] - table["checkpoint"]["up_max"]) * bits,
        "total down": table["total"]["down_mean"] * bits,
    }


def rows(participants: int, folder: Path) -> list[Row]:
    flush, three = (spent(course(participants, rounds, folder)) for rounds in (1, 3))
    usual = {name: (three[name] - flush[name]) / 2 for name in three}
    mean = ((FLUSH_EVERY - 1) * usual["total up"] + flush["total up"]) / FLUSH_EVERY
    unit, who = "bit/parameter", f"{participants} participants"
    found = [
        Row(f"{who}: contribution up", usual["contribution, up"], unit, "<= 0.17", "the own span does not travel"),
        Row(f"{who}: update down", usual["update down"], unit, "<= 0.6"),
        Row(f"{who}: total up", usual["total up"], unit, "<= 0.75", "mean, without storage seeding"),
        Row(f"{who}: total up, most", usual["total up, most"], unit),
        Row(f"{who}: total down", usual["total down"], unit),
        Row(f"{who}: storage seeding up", usual["checkpoint, up"], unit, note="each update once"),
        Row(f"{who}: control up", usual["control, up"], unit, note="plans, records, heartbeats, frames"),
        Row(f"{who}: flush, total up", flush["total up"], unit, note=f"one round in {FLUSH_EVERY}, and the last"),
        Row(f"{who}: total up, {FLUSH_EVERY} rounds with a flush", mean, unit, note="a round"),
    ]
    per_round = FP32_BITS * H
    published = {"contribution, up": (">= 5000", "SparseLoCo's upload: 4,400x at H = 30"), "total up": (">= 1300", "")}
    for name in ("contribution, up", "total up", "total down"):
        bar, note = published.get(name, ("", "INTELLECT-1: 400x"))
        found.append(Row(f"{who}: {name}, fp32 of {H} steps to it", per_round / usual[name], "x", bar, note))
    return found


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--participants", nargs="+", type=int, default=[4, 8, 20], metavar="N")
    options = arguments.parse_args()
    logs.configure(level="error")
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = [row for count in options.participants for row in rows(count, Path(folder))]
    except LegionError as error:
        print(f"bytes.py: {error}. {error.hint}", file=sys.stderr)
        return error.exit_code
    return show("Bytes of rounds", found, options.json)


if __name__ == "__main__":
    sys.exit(main())
