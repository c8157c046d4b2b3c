"""Bytes of a round by kind, simulated and measured, and how much less they are than fp32 gradients in every step.

Rounds of sparse contributions (`topk`, 1.56 %) and sparse updates between clusters of one. How many steps a round has
changes nothing but heartbeats, so few are made.

simulated  as of a model of 1.2B parameters. A run's last round is a dense flush; what an ordinary round costs is half
           the difference between a run of three and a run of one. Audits fall on few spans, by chance: their share of
           the bytes lies between runs without and runs in which every span is audited.
measured   four clients and a server, real programs in network namespaces of their own, and the `small` model: every
           byte that leaves a computer, TLS, TCP and IP headers included, between two commits; beside it what the
           simulator says of the same run. Without root, on the loopback: what their sockets carried, TLS included,
           TCP and IP headers not, and only the mean.

python benchmarks/bytes.py [--only simulated measured] [--participants N ...] [--json FILE]
"""

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import numpy as np
from numpy.typing import NDArray
from rows import Row, parser, show, status_of
from wan import loopback, network, runs
from wan.kinds import Worker, between

from legion import logs
from legion.config import RoundsConfig
from legion.errors import Unusable
from legion.sim.network import KINDS
from legion_server.simulate.course import Course, Point
from legion_server.simulate.options import Options
from legion_server.simulate.report import FP32_BITS
from legion_server.simulate.run import Simulation

Bits = dict[str, NDArray[np.float64]]  # each worker's
UNIT = "bit/parameter"
PARAMETERS = 1.2e9
H = 32  # steps of a round, for the ratios
STEPS = 2  # that are made
CHURN, CHURN_ROUNDS = 0.2, 8
FLUSH_EVERY = 16  # rounds
MOST_UP = 0.75  # bit a parameter and round
MEASURED = 4  # participants
MODEL = "small"
ROUNDS, FIRST, LAST = 10, 1, 7  # that are made, and between whose commits is measured: the last is a flush
RATE_MBIT, RTT_MS = 100.0, 20.0  # bytes hardly depend on them
PATIENCE_S = 400.0
SETTINGS = (
    "data.seq_len=16",
    "batch.micro_batch_blocks=1",
    "batch.micro_batches=1",
    f"rounds.steps={STEPS}",
    "rounds.density=0.015625",
    "rounds.update_codec=topk240x4",
)


def options_of(
    participants: int, rounds: int, parameters: float | None, model: str = "tiny", audit: float = 0.0
) -> Options:
    return Options(
        workers=participants,
        model=model,
        dataset="distributed_dummy",
        compress="topk",
        steps=STEPS * rounds,
        devices="4090",
        bandwidth="10000/10000",  # bytes do not depend on it, and no deadline passes
        parameters=parameters,
        settings=(*SETTINGS, f"rounds.audit={audit}"),
    )


def course(options: Options, folder: Path) -> Course:
    return Simulation(options, folder, _quiet).distributed()


def _quiet(_name: str, _point: Point) -> None:
    """A benchmark prints its table."""


def spent(found: Course, parameters: float) -> Bits:
    """Bits a parameter in the whole run."""
    mine = [one for worker, one in sorted(found.traffic.items()) if worker in found.workers]
    up = {kind: np.array([one.sent[kind] for one in mine]) * 8 / parameters for kind in KINDS}
    down = {kind: np.array([one.received[kind] for one in mine]) * 8 / parameters for kind in KINDS}
    every = {f"{kind}, up": up[kind] for kind in KINDS} | {f"{kind}, down": down[kind] for kind in KINDS}
    totals = {"total up": sum(up.values()) - up["checkpoint"], "total down": np.array(sum(down.values()))}
    return every | {"update down": down["serving"]} | totals


def rounds_of(
    participants: int, folder: Path, model: str, scaled: float | None, audit: float = 0.0
) -> tuple[Bits, ...]:
    """An ordinary round and a flush."""
    found = []
    for rounds in (1, 3):
        options = options_of(participants, rounds, scaled, model, audit)
        parameters = scaled or Simulation(options, folder, _quiet).parameters
        found.append(spent(course(options, folder), parameters))
    flush, three = found
    return {name: (three[name] - flush[name]) / 2 for name in three}, flush


def with_audits(participants: int, folder: Path) -> tuple[Bits, ...]:
    """As `rounds_of`, with the share of audited spans that runs have by default."""
    share = RoundsConfig().audit
    plain, audited = (rounds_of(participants, folder, "tiny", PARAMETERS, audit) for audit in (0.0, 1.0))
    return tuple(
        {name: (1 - share) * bits + share * every[name] for name, bits in one.items()}
        for one, every in zip(plain, audited, strict=True)
    )


def simulated(participants: int, folder: Path) -> list[Row]:
    each, flushes = with_audits(participants, folder)
    usual, flush = ({name: float(bits.mean()) for name, bits in bits_of.items()} for bits_of in (each, flushes))
    mean = ((FLUSH_EVERY - 1) * usual["total up"] + flush["total up"]) / FLUSH_EVERY
    rarely = math.ceil((flush["total up"] - usual["total up"]) / (MOST_UP - usual["total up"]))
    who = f"{participants} participants"
    found = [
        Row(f"{who}: {label}", usual[name], UNIT, bar, f"most {each[name].max():.4f}{note}")
        for label, name, bar, note in (
            ("contribution up", "contribution, up", "<= 0.17", "; the own span does not travel"),
            ("update up", "serving, up", "", ""),
            ("update down", "update down", "<= 0.6", ""),
            ("total up", "total up", f"<= {MOST_UP}", "; without storage seeding"),
            ("total down", "total down", "", ""),
            ("storage seeding up", "checkpoint, up", "", "; each update once"),
            ("control up", "control, up", "", "; texts and frames"),
            ("control down", "control, down", "", "; plans, records, frames"),
        )
    ]
    found += [
        Row(f"{who}: flush, total up", flush["total up"], UNIT, note="of such a round, and of the last"),
        Row(f"{who}: total up, {FLUSH_EVERY} rounds with a flush", mean, UNIT, note="a round, as by default"),
        Row(f"{who}: rounds for a flush", rarely, "", note=f"rounds.flush_every for a mean total up <= {MOST_UP}"),
    ]
    found += ratios(who, {name: usual[name] for name in ("contribution, up", "total up", "total down")})
    return [*found, *joining(participants, folder)]


def joining(participants: int, folder: Path) -> list[Row]:
    """Of a run in which workers leave and come back: in a whole run, as it falls on few."""
    options = replace(options_of(participants, CHURN_ROUNDS, PARAMETERS), churn=CHURN)
    table, bits = course(options, folder).bytes_by_kind()["join"], 8 / PARAMETERS
    note = f"most {table['down_max'] * bits:.4f}; {CHURN_ROUNDS} rounds, {CHURN:.0%} leave and return in each"
    return [
        Row(f"{participants} participants: join down, a run", table["down_mean"] * bits, UNIT, note=note),
        Row(f"{participants} participants: join up, a run", table["up_mean"] * bits, UNIT),
    ]


def ratios(who: str, bits: dict[str, float]) -> list[Row]:
    published = {"contribution, up": (">= 5000", "SparseLoCo's upload: 4,400x at H = 30"), "total up": (">= 1300", "")}
    found = []
    for name, value in bits.items():
        bar, note = published.get(name, ("", "INTELLECT-1: 400x"))
        found.append(Row(f"{who}: {name}, fp32 of {H} steps to it", FP32_BITS * H / value, "x", bar, note))
    return found


def measured(folder: Path) -> list[Row]:
    """OSError, LegionError."""
    options = options_of(MEASURED, ROUNDS, None, MODEL)
    body = options.config().model_dump(mode="json")
    with stage() as place:
        workers = between(place, runs.train(place, folder, body, PATIENCE_S), FIRST, LAST)
    parameters = Simulation(options, folder, _quiet).parameters
    each, _ = rounds_of(MEASURED, folder, MODEL, None)
    usual = {name: float(bits.mean()) for name, bits in each.items()}
    return compared(workers, usual, 8 / parameters / (LAST - FIRST))


@contextlib.contextmanager
def stage() -> Iterator[runs.Stage]:
    """Unusable on machines that have none."""
    reason = network.missing()
    if not reason:
        uplinks = [network.Uplink(RATE_MBIT, RTT_MS / 4)] * MEASURED + [network.Uplink(None, 0.0)]
        with network.netted(uplinks) as net:
            yield net
        return
    if loopback.missing():
        raise Unusable(f"nothing can be measured here: {reason}; {loopback.missing()}")
    print(f"Measured at sockets of the loopback, without TCP and IP headers: {reason}.", file=sys.stderr)
    with loopback.looped(MEASURED) as looped:
        yield looped


def compared(workers: Sequence[Worker], usual: dict[str, float], bits: float) -> list[Row]:
    """`bits`: a parameter and round, that a byte is."""
    who, unit, found = f"{MEASURED} measured", UNIT, []
    means: dict[str, float] = {}
    for field, name, label, bar in (
        ("contribution_up", "contribution, up", "contribution up", "<= 0.17"),
        ("serving_up", "serving, up", "update up", ""),
        ("serving_down", "update down", "update down", "<= 0.6"),
        ("control_up", "control, up", "control up", ""),
        ("total_up", "total up", "total up", f"<= {MOST_UP}"),
        ("total_down", "total down", "total down", ""),
        ("seeding_up", "checkpoint, up", "storage seeding up", ""),
    ):
        each = [getattr(worker, field) * bits for worker in workers]
        means[name] = sum(each) / len(each)
        apart = f"simulated {usual[name]:.4f}, {means[name] / usual[name] - 1:+.1%}"
        if len(each) > 1:
            apart += f"; most {max(each):.4f}"
        found.append(Row(f"{who}: {label}", means[name], unit, bar, apart))
    return found + ratios(who, {name: means[name] for name in ("contribution, up", "total up", "total down")})


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    parts = ("simulated", "measured")
    arguments.add_argument("--only", nargs="+", choices=parts, default=parts)
    arguments.add_argument("--participants", nargs="+", type=int, default=[4, 8, 20], metavar="N", help="simulated")
    options = arguments.parse_args()
    logs.configure(level="error")
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if "simulated" in options.only:
            found += [row for count in options.participants for row in simulated(count, Path(folder))]
        if "measured" in options.only:
            found += measured(Path(folder))
    return show("Bytes of rounds", found, options.json)


if __name__ == "__main__":
    sys.exit(status_of(main))
