"""Peak memory of an engine against what ZeRO-3 promises: 16 bytes x P/N for the state, and three units at work.

Real engine processes, N = 1, 2 and 4 on this machine, a Llama in which parameters dominate (64M, micro-batches of 16
tokens). Each engine starts from theta_0, trains 5 steps with gRPC and TLS, writes its slice, and another engine resumes
from it for one step more. The peak is the kernel's own figure for the finished process. A bare engine is the same
program, same data, same number of steps, with a model of 30 thousand parameters.

    python benchmarks/memory.py [--json FILE]
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from rows import Row, parser, show

MEBI = 1 << 20
STEPS = 5


def config(world: int, hidden: int, layers: int, steps: int) -> Any:
    from legion.config import RunConfig, merge

    settings = {
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": hidden // 32,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    return merge(
        RunConfig(),
        {
            "model": {"preset": None, "architecture": "llama", "settings": settings},
            "data": {"source": "distributed_dummy", "seq_len": 16},
            "batch": {"micro_batches": world, "micro_batch_blocks": 1},
            "cluster": {"policy": "one"},
            "checkpoint": {"every_steps": STEPS},
            "evaluation": {"max_blocks": 4},
            "optimizer": {"warmup_steps": 0},
            "steps": steps,
        },
    )


def peaks(world: int, hidden: int, layers: int, folder: Path) -> tuple[list[int], list[int], Any]:
    """Peak bytes of each engine that starts, and of each that resumes; the model's shape."""
    from engines import Engines

    first = Engines(config(world, hidden, layers, STEPS), world, folder)
    shape = first.plan().shape
    first.train()
    slices: list[Path | None] = list(first.slices(STEPS))
    second = Engines(config(world, hidden, layers, STEPS + 1), world, folder)
    second.train(first_step=STEPS, slices=slices)
    return ([e.peak_rss_bytes for e in first.engines], [e.peak_rss_bytes for e in second.engines], shape)


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--members", type=int, nargs="+", default=[1, 2, 4])
    options = arguments.parse_args()
    rows = []
    for world in options.members:
        with tempfile.TemporaryDirectory() as folder:
            bare = max(max(p) for p in peaks(world, 32, 1, Path(folder))[:2])
        with tempfile.TemporaryDirectory() as folder:
            started, resumed, shape = peaks(world, 768, 9, Path(folder))
        unit = max(shape.sizes) * 4
        allowed = 1.1 * 16 * shape.parameters / world + 3 * unit
        for name, peak in (("start, 5 steps, checkpoint", max(started)), ("resume", max(resumed))):
            rows.append(
                Row(
                    f"N={world} {name}",
                    (peak - bare) / MEBI,
                    "MiB",
                    f"<= {allowed / MEBI:.0f}",
                    f"peak {peak / MEBI:.0f}, bare engine {bare / MEBI:.0f}",
                )
            )
    return show(f"Peak memory above a bare engine, P = {shape.parameters / 1e6:.1f}M", rows, options.json)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    sys.exit(main())
