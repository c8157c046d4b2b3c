"""How much of their time real workers compute: rounds over shaped links, and a fast and a slow engine in one cluster.

The figures of utilisation.py, with the production programs. A step, or a micro-batch in the cluster, is padded to a
fixed duration by sleeping, so that shared cores do not pass for network time; what else the programs do comes on top.
Where the computation itself takes longer than that, because the machine is busy, a second figure is of what it took.

rounds   a server and 4 clients in network namespaces, each with 20 Mbit/s up (`tc tbf`) and 50 ms to the others, round
         settings as they are by default. A step takes so long that the wire's lower bound is 20 % of a round. Down,
         100 Mbit/s would not bind: the other three send 60 at most. Needs root.
cluster  two engines over mutual TLS on loopback, one four times as fast as the other, 20 micro-batches a step:
         micro-batches a second over the sum of both alone, claimed and, for comparison, by turns (`cluster.claims`
         static).

sudo python benchmarks/utilisation_real.py [--only rounds cluster] [--megabytes 40] [--rounds 5] [--json FILE]
"""

import contextlib
import os
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

from rows import Row, parser, show, status_of
from wan import runs
from wan.network import Uplink, missing, netted

from legion import logs
from legion.config import RoundsConfig, RunConfig, merge
from legion.data.prepare import prepare
from legion.model.build import blueprint

WORKERS = 4
UP_MBIT, RTT_MS = 20.0, 50.0
BITS = 4.25  # of a value in `int4`
SHARE = 0.2  # of a round, that the bound takes
NICE = -10  # what stands for several computers does not wait for what else this one does
PATIENCE_S = 1500.0
MODELS: dict[int, dict[str, int]] = {  # about so many MB in fp32
    4: {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 5, "num_attention_heads": 4},
    40: {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 5, "num_attention_heads": 6},
    400: {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16},
}
FAST_S, SLOW_S = 0.25, 1.0  # a micro-batch
MICRO_BATCHES, CLUSTER_STEPS = 20, 4
PACE_S = "UTILISATION_MICRO_BATCH_S"
# In the process of a real engine. All that a step computes is in it, its border is not.
STEPS = """
import sys
if "legion_client.engine" in sys.orig_argv:
    import time
    from legion.zero.engine import Zero3
    begin, update = Zero3.begin, Zero3._update

    def begin_step(self, batch_count):
        self.began_at = time.monotonic()
        begin(self, batch_count)

    def update_slice(self, *arguments, **named):
        update(self, *arguments, **named)
        time.sleep(max(0.0, self.began_at + {step_s} - time.monotonic()))
        with open({steps!r}, "a") as steps:
            steps.write(f"{{time.time()}} {{time.monotonic() - self.began_at}}\\n")

    Zero3.begin, Zero3._update = begin_step, update_slice
"""
MICRO = """
import sys
if "legion_client.engine" in sys.orig_argv:
    import contextlib, os, time
    from legion.zero.engine import Zero3
    backward_of = Zero3.backward_of

    @contextlib.contextmanager
    def paced(self, index, tokens):
        over_at = time.monotonic() + float(os.environ["UTILISATION_MICRO_BATCH_S"])
        with backward_of(self, index, tokens):
            yield
        time.sleep(max(0.0, over_at - time.monotonic()))

    Zero3.backward_of = paced
"""


def config_of(settings: dict[str, int], change: dict[str, Any]) -> RunConfig:
    model = settings | {"num_key_value_heads": settings["num_attention_heads"], "max_position_embeddings": 64}
    same: dict[str, Any] = {
        "model": {"preset": None, "architecture": "llama", "settings": model},
        "data": {"source": "distributed_dummy", "seq_len": 16},
        "optimizer": {"warmup_steps": 0},
        "evaluation": {"every_steps": 0, "max_blocks": 1},
    }
    return merge(merge(RunConfig(), same), change)


def rounds(given: Namespace, folder: Path) -> list[Row]:
    if missing():
        print(f"Without rounds: {missing()}.")
        return []
    return [row for megabytes in given.megabytes for row in _rounds(megabytes, given.rounds, folder / str(megabytes))]


def _rounds(megabytes: int, count: int, folder: Path) -> list[Row]:
    folder.mkdir(parents=True)
    every = RoundsConfig().steps
    change = {
        "batch": {"micro_batches": 1, "micro_batch_blocks": 1},
        "cluster": {"policy": "solo"},
        "start": {"workers": WORKERS},
        "steps": count * every,
    }
    config = config_of(MODELS[megabytes], change)
    vocab_size = prepare(config.data, seed=config.seed, folder=folder).manifest.vocab_size
    values = blueprint(config, vocab_size).shape.parameters
    bound_s = 2 * (WORKERS - 1) / WORKERS * values * BITS / (UP_MBIT * 1e6)
    step_s = bound_s / SHARE / every
    uplinks = [Uplink(UP_MBIT, RTT_MS / 4)] * WORKERS + [Uplink(None, RTT_MS / 4)]
    steps = folder / "steps"
    with netted(uplinks) as net:
        patch = STEPS.format(step_s=step_s, steps=str(steps))
        course = runs.train(net, folder, config.model_dump(mode="json"), PATIENCE_S, patch=patch)
    at = [record.committed_at for record in course.records]
    # Between two commits in the middle: at the start connections open, and after the last round nothing is overlapped.
    used = 100 * (len(at) - 2) * every * step_s / (at[-2] - at[0])
    took = [tuple(map(float, line.split())) for line in steps.read_text().splitlines()]
    busy_s = [duration_s for over_at, duration_s in took if at[0] < over_at <= at[-2]]
    in_steps = 100 * sum(busy_s) / WORKERS / (at[-2] - at[0])
    excess = 100 * (statistics.mean(busy_s) / step_s - 1)
    name, round_s = f"{values * 4e-6:.0f} MB", every * step_s
    note = f"bound {bound_s:.2f} s, {100 * SHARE:.0f} % of a round of {round_s:.1f} s; rounds took " + ", ".join(
        f"{later - before:.1f}" for before, later in pairwise(at[:-1])
    )
    return [
        Row(f"{name}: computing, of the time between commits", used, "%", ">= 95", note),
        Row(f"{name}: the same of steps as long as they took", in_steps, "%", "", f"{excess:.1f} % longer on the mean"),
        Row(f"{name}: first round", at[0] - course.began_at, "s", "", f"all {at[-1] - course.began_at:.1f} s"),
    ]


@contextlib.contextmanager
def patched(folder: Path, patch: str) -> Iterator[None]:
    """Engines that start meanwhile run it before anything else."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(patch)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def cluster(_given: Namespace, folder: Path) -> list[Row]:
    with patched(folder / "patch", MICRO):
        alone = sum(_batches_per_s((pace_s,), "dynamic", folder) for pace_s in (FAST_S, SLOW_S))
        claimed, in_turns = (_batches_per_s((FAST_S, SLOW_S), claims, folder) for claims in ("dynamic", "static"))
    ideal = 1 / FAST_S + 1 / SLOW_S
    note = f"alone {alone:.2f} micro-batches/s, {ideal:.2f} if there were nothing but them"
    return [
        Row("4x and 1x in a cluster: of the sum of both alone", 100 * claimed / alone, "%", ">= 90", note),
        Row("the same, of the durations' own sum", 100 * claimed / ideal, "%"),
        Row("without claims: of the sum of both alone", 100 * in_turns / alone, "%", "", "about 40 expected"),
    ]


def _batches_per_s(paces_s: Sequence[float], claims: str, folder: Path) -> float:
    """Of all steps but the first."""
    from engines import Engines

    from legion_client.engine.protocol import StepDone

    class Paced(Engines):
        def _start(self, identity: Any) -> Any:
            os.environ[PACE_S] = str(next(waiting))
            return super()._start(identity)

    waiting = iter(paces_s)
    batch = {"micro_batches": MICRO_BATCHES, "micro_batch_blocks": 1}
    change = {"batch": batch, "cluster": {"policy": "one", "claims": claims}, "steps": CLUSTER_STEPS}
    engines = Paced(config_of(MODELS[4], change), len(paces_s), Path(tempfile.mkdtemp(dir=folder)))
    engines.train()
    records = [done.record for done in engines.engines[0].of(StepDone)][1:]
    return MICRO_BATCHES * len(records) / sum(record.step_s for record in records)


PARTS = {"rounds": rounds, "cluster": cluster}


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    made.add_argument("--megabytes", nargs="+", type=int, choices=sorted(MODELS), default=[40])
    made.add_argument("--rounds", type=int, default=5)
    given = made.parse_args()
    if given.rounds < 3:
        made.error("it takes three rounds at least")
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    logs.configure(level="error")
    with contextlib.suppress(PermissionError):
        os.nice(NICE)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.only:
            found += PARTS[name](given, Path(temporary) / name)
    found.append(Row("load", os.getloadavg()[0], "", "", f"{os.cpu_count()} cores"))
    return show("Utilisation, real processes", found, given.json)


if __name__ == "__main__":
    sys.exit(status_of(main))
