"""Legion's ZeRO-3 over TLS gRPC against PyTorch FSDP2 over gloo without TLS, in one run.

Two processes with one thread each, an 11M-parameter Llama in fp32, 1,024 tokens per worker and step, clipping and fused
AdamW everywhere. All contenders' processes are started once and then take turns: round r times a few steps of each, so
drift of the machine's speed hits all alike; ratios are taken round by round. All contenders allocate as Legion's engine
does, in huge pages: without them the luck of the allocator makes one and the same program up to 8 % faster or slower.
FSDP2 shards each block and the root, and runs with reshard_after_forward True and False; so does Legion. The bar is for
the policy with which FSDP2 is faster; the ratio of the other, DDP and a single process are printed for comparison.

    python benchmarks/zero3_vs_fsdp2.py [--rounds 9] [--steps 4] [--json FILE]
"""

import asyncio
import datetime
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rows import Row, interval, parser, show
from torch import Tensor, nn

from legion.config import ClusterConfig, OptimizerConfig, RunConfig, merge
from legion.train.loop import loss_sum_of
from legion_client.agent import allocator

TOKENS = 1024  # per worker and step
BLOCKS, SEQ_LEN = 8, 128
VOCAB = 257
WORLD = 2
Step = Callable[[], float]


def config(**cluster: object) -> RunConfig:
    return merge(
        RunConfig(),
        {
            "model": {"preset": "small"},
            "batch": {"micro_batches": WORLD, "micro_batch_blocks": BLOCKS},
            "cluster": {"claims": "static", "precision": "fp32", **cluster},
        },
    )


def batch(rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    tokens = torch.randint(0, VOCAB, (BLOCKS, SEQ_LEN + 1), generator=generator)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def hf_model(*, meta: bool = False) -> nn.Module:
    """The same architecture, built by transformers alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from legion.model.presets import resolved

    architecture, settings = resolved(config().model, VOCAB)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings, use_cache=False))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    settings = OptimizerConfig()
    return torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(settings.beta1, settings.beta2), weight_decay=0.1, fused=True
    )


def torch_step(model: nn.Module, rank: int) -> Step:
    """Forward, backward, clip, update with torch's own parts."""
    optimizer = adamw(model)
    inputs, labels = batch(rank)

    def step() -> float:
        loss = loss_sum_of(model(input_ids=inputs, use_cache=False).logits, labels) / TOKENS
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def join_gloo(rank: int, port: int) -> None:
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(minutes=5),
    )


def fsdp2_step(rank: int, port: int, reshard: bool) -> Step:
    from torch.distributed.fsdp import fully_shard

    join_gloo(rank, port)
    model = hf_model()
    for block in model.model.layers:
        fully_shard(block, reshard_after_forward=reshard)
    fully_shard(model, reshard_after_forward=reshard)
    return torch_step(model, rank)


def ddp_step(rank: int, port: int) -> Step:
    join_gloo(rank, port)
    return torch_step(nn.parallel.DistributedDataParallel(hf_model()), rank)


def legion_step(rank: int, folder: Path, reshard: bool) -> Step:
    """The production parts: identity, PeerNetwork on a loop of its own, MemberExchange, Zero3."""
    from legion.codec.registry import by_name
    from legion.comm.api import Group
    from legion.comm.arrays import array_of
    from legion.comm.bridge import Bridge
    from legion.comm.exchange import MemberExchange
    from legion.comm.member import Member
    from legion.comm.network import listen
    from legion.identity import Identity
    from legion.layout import Layout
    from legion.messages import Endpoint
    from legion.model.build import blueprint
    from legion.model.init import fill, theta_0
    from legion.zero.engine import Zero3

    run = config(reshard_after_forward=reshard)
    identities = [Identity.load(folder / str(r)) for r in range(WORLD)]
    plan = blueprint(run, VOCAB)
    layout = Layout(plan.shape.sizes, (1,) * WORLD)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    network = asyncio.run_coroutine_threadsafe(listen(identities[rank], "127.0.0.1", 0), loop).result()
    print(network.port, flush=True)
    ports = [int(port) for port in sys.stdin.readline().split()]
    none = by_name("none")
    group = Group(1, tuple(identity.worker_id for identity in identities), rank)
    member = Member(group, layout, ordered=True, weights=none, gradients=none)
    exchange = MemberExchange(member, Bridge(loop, member.usage), static_claims=True)
    endpoints = {r: Endpoint(host="127.0.0.1", port=port) for r, port in enumerate(ports)}
    joined = network.joined(member, endpoints)
    asyncio.run_coroutine_threadsafe(joined.__aenter__(), loop).result()
    zero = Zero3(
        plan.units,
        layout,
        exchange,
        cluster=ClusterConfig.model_validate(run.cluster.model_dump()),
        optimizer=run.optimizer,
        steps=run.steps,
        device=torch.device("cpu"),
    )
    for number, unit in enumerate(plan.shape.units):
        fill(array_of(zero.part(number).weights), unit, layout.bounds(number, rank).start, theta_0(run))
    zero.start(0)
    inputs, labels = batch(rank)
    done = 0

    def step() -> float:
        nonlocal done, joined  # the membership lasts as long as the steps
        zero.begin(WORLD)
        index = exchange.claim(done, WORLD)
        with zero.backward_of(index, TOKENS):
            loss = loss_sum_of(plan.model(input_ids=inputs, use_cache=False).logits, labels)
            loss.backward()
        done += 1
        return zero.finish(float(loss.detach()), 3e-3).loss

    return step


def worker(kind: str, rank: int, where: str) -> None:
    """A contender's process: builds its step, then runs as many as each line of its input says."""
    torch.set_num_threads(1)
    match kind.split(":"):
        case ["legion", policy]:
            step = legion_step(rank, Path(where), policy == "reshard")
        case ["fsdp2", policy]:
            step = fsdp2_step(rank, int(where), policy == "reshard")
        case ["ddp"]:
            step = ddp_step(rank, int(where))
        case _:
            step = torch_step(hf_model(), rank)
    step()
    print("ready", flush=True)
    for line in sys.stdin:
        loss = 0.0
        for _ in range(int(line)):
            loss = step()
        print(loss, flush=True)
    os._exit(0)


class Contender:
    """One kind of training: its processes, and how fast they are."""

    def __init__(self, kind: str, where: str, world: int) -> None:
        self.kind = kind
        variables = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | allocator.variables(config().model)
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", kind, str(rank), where],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | variables,
            )
            for rank in range(world)
        ]
        if kind.startswith("legion"):
            ports = [process.stdout.readline().strip() for process in self.processes]
            self.tell(" ".join(ports))
        for process in self.processes:
            assert process.stdout.readline() == "ready\n", f"{kind} did not start"

    def tell(self, line: str) -> None:
        for process in self.processes:
            process.stdin.write(line + "\n")
            process.stdin.flush()

    def tokens_per_s(self, steps: int) -> float:
        started = time.perf_counter()
        self.tell(str(steps))
        for process in self.processes:
            process.stdout.readline()
        return TOKENS * len(self.processes) * steps / (time.perf_counter() - started)

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait()


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def enrol(folder: Path) -> None:
    from identities import issue

    for rank, identity in enumerate(issue(folder / "ca", WORLD)):
        identity.save(folder / str(rank))


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--steps", type=int, default=4, help="of each contender in each round")
    options = arguments.parse_args()
    kinds = ["legion:reshard", "fsdp2:reshard", "legion:keep", "fsdp2:keep", "ddp", "single"]
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        enrol(Path(folder))
        contenders = [
            Contender(kind, folder if kind.startswith("legion") else free_port(), 1 if kind == "single" else WORLD)
            for kind in kinds
        ]
        try:
            for contender in contenders:
                contender.tokens_per_s(2)
            for _ in range(options.rounds):
                for contender in contenders:
                    speeds[contender.kind].append(contender.tokens_per_s(options.steps))
        finally:
            for contender in contenders:
                contender.close()
    rows = []
    for kind in kinds:
        low, middle, high = interval(speeds[kind])
        rows.append(Row(f"{kind}", middle, "tokens/s", note=f"quartiles {low:,.0f} to {high:,.0f}"))
    fastest = max(("reshard", "keep"), key=lambda policy: interval(speeds[f"fsdp2:{policy}"])[1])
    for policy in ("reshard", "keep"):
        mine, theirs = f"legion:{policy}", f"fsdp2:{policy}"
        ratios = [a / b for a, b in zip(speeds[mine], speeds[theirs], strict=True)]
        low, middle, high = interval(ratios)
        bar = ">= 1.0" if policy == fastest else ""
        rows.append(Row(f"{mine} / {theirs}", middle, "ratio", bar, f"quartiles {low:.3f} to {high:.3f}"))
    return show("ZeRO-3: 2 processes x 1 thread, 11M Llama, fp32", rows, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    sys.exit(main())
