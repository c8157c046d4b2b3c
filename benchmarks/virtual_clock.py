"""The simulator's clock against real processes: the same run on both, and how long its rounds take.

Four clusters of one, contributions and updates in int8. Real: a server and four clients in network namespaces, behind
uplinks shaped by `tc tbf` and a hub that delays packets, as in `wan_round.py`. Each step is padded to the time that the
device model gives it, so that four processes on few cores are as fast as four computers; everything else takes what it
takes. Rounds are told by the server's own times of commit; in the first, real engines also start.

The simulator's rates are what a program sees, so it gets the shaped rate without TCP's and IP's headers. With overlap
(as by default) a round takes as long as its steps or its transfers, whichever is more; without, as both together.

Needs root, and says so otherwise.

    sudo python benchmarks/virtual_clock.py [--rounds 8] [--model tiny] [--rate 5] [--rtt 50] [--step 1] [--json FILE]
"""

import contextlib
import os
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

from rows import Row, parser, show, status_of
from wan import runs
from wan.network import Uplink, missing, netted

from legion import logs
from legion.data.prepare import prepare
from legion.model.build import blueprint
from legion.sim.device import BACKWARD_FLOP, DEVICES, FORWARD_FLOP
from legion_server.simulate.course import Point
from legion_server.simulate.options import Options
from legion_server.simulate.run import Simulation

WORKERS = 4
H = 2  # steps of a round
MICRO_BATCHES = 2  # of a step
NICE = -10  # what stands for several computers does not wait for what else this one does
SEQ_LEN, BLOCKS = 16, 1
SEGMENT_BYTES, PACKET_BYTES = 1448, 1500  # of values in a full packet, and of the packet
APART = 0.1  # of the real time
PATIENCE_S = 600.0
# In the process of a real engine: a step takes as long as on the modelled device, its end and borders come on top.
PADDING = """
import sys
if "legion_client.engine" in sys.orig_argv:
    import time
    from legion.zero.engine import Zero3
    begin, finish = Zero3.begin, Zero3.finish

    def begin_step(self, batch_count):
        self.over_at = time.monotonic() + batch_count * {micro_batch_s}
        begin(self, batch_count)

    def finish_step(self, *arguments, **named):
        time.sleep(max(0.0, self.over_at - time.monotonic()))
        return finish(self, *arguments, **named)

    Zero3.begin, Zero3.finish = begin_step, finish_step
"""


def options_of(given: Namespace, *, overlap: bool) -> Options:
    """At the speed of the device as it is modelled."""
    visible_mbit = given.rate * SEGMENT_BYTES / PACKET_BYTES
    settings = [
        f"rounds.steps={H}",
        "rounds.update_codec=int8",
        f"rounds.overlap={str(overlap).lower()}",
        f"batch.micro_batches={MICRO_BATCHES}",
        f"batch.micro_batch_blocks={BLOCKS}",
        f"data.seq_len={SEQ_LEN}",
    ]
    return Options(
        workers=WORKERS,
        model=given.model,
        dataset="distributed_dummy",
        latency_ms=given.rtt,
        bandwidth=f"10000/{visible_mbit}",
        compress="int8",
        steps=H * given.rounds,
        settings=tuple(settings),
    )


def paced(options: Options, step_s: float, folder: Path) -> Options:
    """With workers so fast that a step takes `step_s`."""
    config = options.config()
    vocab_size = prepare(config.data, seed=options.seed, folder=folder).manifest.vocab_size
    shape = blueprint(config, vocab_size).shape
    multiplied = sum(unit.numel for unit in shape.units[1:])  # the embedding is looked up; the head is not tied to it
    flop = (FORWARD_FLOP + BACKWARD_FLOP) * multiplied * MICRO_BATCHES * BLOCKS * SEQ_LEN
    return replace(options, speeds=str(flop / step_s / DEVICES[options.devices].flop_s))


def _quiet(_name: str, _point: Point) -> None:
    """A benchmark prints its table."""


def virtual(options: Options, folder: Path) -> list[float]:
    """s from the beginning to the commit of each round."""
    return [point.time_s for point in Simulation(options, folder, _quiet).distributed().points]


def real(options: Options, given: Namespace, folder: Path) -> list[float]:
    """The same of real processes."""
    uplinks = [Uplink(given.rate, given.rtt / 4)] * WORKERS + [Uplink(None, 0.0)]
    body = options.config().model_dump(mode="json")
    patch = PADDING.format(micro_batch_s=given.step / MICRO_BATCHES)
    folder.mkdir()
    with netted(uplinks) as net:
        course = runs.train(net, folder, body, PATIENCE_S, patch=patch)
    return [record.committed_at - course.began_at for record in course.records]


def compared(name: str, virtual_s: Sequence[float], real_s: Sequence[float]) -> list[Row]:
    first = f"{real_s[0]:.2f} s of real processes, {virtual_s[0]:.2f} s virtual; engines start meanwhile"
    rows = [Row(f"{name}: first round", virtual_s[0] / real_s[0] - 1, "", note=first)]
    each = [(v - w, r - q) for (w, v), (q, r) in zip(pairwise(virtual_s), pairwise(real_s), strict=True)]
    for number, (ours, theirs) in enumerate(each, start=2):
        rows.append(Row(f"{name}: round {number}", ours / theirs - 1, "", note=f"{theirs:.2f} s, {ours:.2f} s virtual"))
    ours, theirs = (statistics.median(column) for column in zip(*each, strict=True))
    rows.append(Row(f"{name}: median round", ours / theirs - 1, "", note=f"{theirs:.2f} s, {ours:.2f} s virtual"))
    ours, theirs = (times[-1] - times[0] for times in (virtual_s, real_s))
    note = f"{theirs:.2f} s, {ours:.2f} s virtual; {abs(ours / theirs - 1):.1%} apart"
    rows.append(Row(f"{name}: rounds 2 to {len(real_s)}, apart", abs(ours / theirs - 1), "", f"<= {APART}", note))
    note = f"{real_s[-1]:.2f} s, {virtual_s[-1]:.2f} s virtual"
    rows.append(Row(f"{name}: whole run", virtual_s[-1] / real_s[-1] - 1, "", note=note))
    return rows


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--rounds", type=int, default=8)
    made.add_argument("--model", default="tiny")
    made.add_argument("--rate", type=float, default=5.0, help="Mbit/s, of each uplink")
    made.add_argument("--rtt", type=float, default=50.0, help="ms, between two workers")
    made.add_argument("--step", type=float, default=1.0, help="s")
    given = made.parse_args()
    if given.rounds < 3:
        made.error("it takes three rounds at least")
    if missing():
        print(f"virtual_clock.py cannot run here: {missing()}.")
        return 2
    logs.configure(level="error")
    with contextlib.suppress(PermissionError):
        os.nice(NICE)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, overlap in (("one after the other", False), ("overlapping", True)):
            options = paced(options_of(given, overlap=overlap), given.step, Path(folder))
            virtual_s = virtual(options, Path(folder))
            rows += compared(name, virtual_s, real(options, given, Path(folder) / name.split()[0]))
    rows.append(Row("load", os.getloadavg()[0], "", "", f"{os.cpu_count()} cores"))
    return show("Virtual and real time, as far as they are apart", rows, given.json)


if __name__ == "__main__":
    sys.exit(status_of(main))
