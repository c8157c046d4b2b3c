"""How much of their time workers compute: rounds over home links, and a fast and a slow worker in one cluster.

The production engine, courier, reducers and coordinator on the simulator's clock and network (see virtual_clock.py for
how far that is from real processes): compute is of a fixed duration there, so that shared cores do not pass for network
time. A tiny model stands for larger ones: times and bytes are scaled to theirs.

rounds   4 clusters of one, the round settings as they are by default, 100/20 Mbit/s, 50 ms, models of 40 MB and 400 MB
         in fp32. A step takes so long that the wire's lower bound is 20 % of a round. The bound: 2 (N - 1)/N of the
         values at `int4`'s 4.25 bits, over 20 Mbit/s up, as in wan_round.py.
cluster  one worker four times as fast as the other, 1 Gbit/s and 0.5 ms between them, 20 micro-batches a step: tokens a
         second over the sum of both alone, claimed and, for comparison, by turns (`cluster.claims` static).

python benchmarks/utilisation.py [--only rounds cluster] [--rounds 6] [--json FILE]
"""

import json
import sys
import tempfile
from pathlib import Path

from rows import Row, parser, show, status_of

from legion.config import RoundsConfig
from legion_server.simulate.course import Course
from legion_server.simulate.options import Options
from legion_server.simulate.run import Simulation

WORKERS = 4
UP_MBIT = 20.0
BITS = 4.25
FAST, SLOW = "0.004", "0.001"  # of a processor's speed: a micro-batch takes 1 s and 4 s, its weights a few hundredths
SHARE = 0.2  # of a round, that the bound takes
NARROW = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 2, "num_key_value_heads": 2}
SMALL = (
    f"model.settings={json.dumps(NARROW | {'num_hidden_layers': 2})}",
    "data.seq_len=32",
    "batch.micro_batch_blocks=1",
    "rounds.audit=0",
)


def course(folder: Path, **options: object) -> Course:
    folder.mkdir(parents=True, exist_ok=True)
    return Simulation(Options(**options), folder, lambda _name, _point: None).distributed()  # type: ignore[arg-type]


def step_s(found: Course) -> float:
    """That a worker computes for one step, on the mean."""
    return sum(work.computed_s for work in found.workers.values()) / sum(work.steps for work in found.workers.values())


def rounds(folder: Path, count: int) -> list[Row]:
    return [row for megabytes in (40, 400) for row in _rounds(folder / str(megabytes), megabytes * 1e6 / 4, count)]


def _rounds(folder: Path, values: float, count: int) -> list[Row]:
    every = RoundsConfig().steps
    bound_s = 2 * (WORKERS - 1) / WORKERS * values * BITS / (UP_MBIT * 1e6)
    same = {"workers": WORKERS, "parameters": values, "settings": SMALL, "compress": "int4"}
    unpaced = step_s(course(folder, steps=every, **same))
    wanted = bound_s / SHARE / every
    found = course(folder, steps=count * every, speeds=f"{unpaced / wanted}", **same)
    # Between two commits in the middle: at the start connections open, and after the last round nothing is overlapped.
    first, last = found.points[0], found.points[-2]
    tokens_a_step = found.points[0].tokens / every / WORKERS
    made = (last.tokens - first.tokens) / tokens_a_step / WORKERS
    used = 100 * made * step_s(found) / (last.time_s - first.time_s)
    name = f"{values * 4e-6:.0f} MB"
    round_s = every * step_s(found)
    note = f"bound {bound_s:.2f} s, {100 * bound_s / round_s:.0f} % of a round of {round_s:.1f} s"
    whole = f"first round {found.points[0].time_s:.1f} s, all {found.wall_s:.1f} s"
    return [
        Row(f"{name}: computing, of the time between commits", used, "%", ">= 95", note),
        Row(f"{name}: computing, start and end and all", 100 * found.utilisation, "%", "", whole),
        Row(f"{name}: roots that differ", found.counts["root_mismatches"], "", "<= 0"),
    ]


def cluster(folder: Path, count: int) -> list[Row]:
    def speed(claims: str, speeds: str) -> float:
        """Tokens a second between the first and the last commit."""
        workers = len(speeds.split(","))
        settings = (*SMALL, "batch.micro_batches=20", f"cluster.claims={claims}", "rounds.steps=8")
        found = course(
            folder, workers=workers, clusters=1, steps=8 * count, speeds=speeds, parameters=1e6, settings=settings
        )
        first, last = found.points[0], found.points[-1]
        return (last.tokens - first.tokens) / (last.time_s - first.time_s)

    alone = speed("dynamic", FAST) + speed("dynamic", SLOW)
    claimed, in_turns = speed("dynamic", f"{FAST},{SLOW}"), speed("static", f"{FAST},{SLOW}")
    return [
        Row("4x and 1x in a cluster: of the sum of both alone", 100 * claimed / alone, "%", ">= 90"),
        Row("the same without claims", 100 * in_turns / alone, "%", "", "about 40 expected"),
    ]


PARTS = {"rounds": rounds, "cluster": cluster}


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    made.add_argument("--rounds", type=int, default=6)
    options = made.parse_args()
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only:
            found += PARTS[name](Path(temporary) / name, options.rounds)
    return show("Utilisation", found, options.json)


if __name__ == "__main__":
    sys.exit(status_of(main))
