"""`legion-server simulate` on the command line; the server's program registers it."""

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from legion.errors import Unusable
from legion_server.simulate.options import Options

Mode = Annotated[
    Literal["distributed", "baseline", "both"],
    typer.Option(help="Clusters by rounds; or the same steps in one process; or one after the other."),
]
Clusters = Annotated[int | None, typer.Option(min=1, help="Of equal size; default: every worker is one.")]
Churn = Annotated[float, typer.Option(min=0, max=1, metavar="P", help="Probability that a worker leaves in a round.")]
Parameters = Annotated[float | None, typer.Option(min=1, help="Times and bytes as for a model of so many, as 1.2e9.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the configuration, as rounds.steps=8."),
]
Plot = Annotated[Path | None, typer.Option(help="Write a PNG here; default: beside the report, where there is one.")]


def simulate(
    workers: Annotated[int, typer.Option(min=1, help="How many computers.")] = 4,
    model: Annotated[str, typer.Option(help="A preset: tiny, small, gpt2, ...")] = "tiny",
    latency: Annotated[float, typer.Option(min=0, help="Round trip between two workers, in ms.")] = 50.0,
    bandwidth: Annotated[str, typer.Option(metavar="DOWN/UP", help="Of each worker's link, in Mbit/s.")] = "100/20",
    compress: Annotated[str, typer.Option(help="Codec of contributions: int8, int4, topk, ...")] = "int8",
    mode: Mode = "distributed",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of every cluster.")] = 100,
    clusters: Clusters = None,
    churn: Churn = 0.0,
    device: Annotated[str, typer.Option(metavar="NAMES", help="Of the workers in turn: 4090, 3060, cpu.")] = "cpu",
    speeds: Annotated[str, typer.Option(metavar="FACTORS", help="Of the workers in turn, as 1,1,4,10.")] = "1",
    lan: Annotated[str, typer.Option(metavar="DOWN/UP", help="Inside a cluster, in Mbit/s.")] = "1000/1000",
    lan_latency: Annotated[float, typer.Option(min=0, help="Round trip inside a cluster, in ms.")] = 0.5,
    parameters: Parameters = None,
    dataset: Annotated[str, typer.Option(help="python_stdlib or distributed_dummy.")] = "python_stdlib",
    settings: Settings = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, data and churn.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write everything as JSON to this file.")] = None,
    plot: Plot = None,
) -> None:
    """Train with many computers on a virtual clock and network, in this process."""
    options = Options(
        workers=workers,
        model=model,
        dataset=dataset,
        latency_ms=latency,
        bandwidth=bandwidth,
        compress=compress,
        mode=mode,
        steps=steps,
        clusters=clusters,
        churn=churn,
        devices=device,
        speeds=speeds,
        lan=lan,
        lan_latency_ms=lan_latency,
        parameters=parameters,
        settings=tuple(settings or ()),
        seed=seed,
        report=report,
        plot=plot or (report.with_suffix(".png") if report else None),
    )
    options.check()
    try:
        from legion_server.simulate.show import show
    except ModuleNotFoundError as error:
        raise Unusable(
            f"the simulator needs {error.name}, which is not installed",
            hint="Install it with pip install 'legion-training[sim]'.",
        ) from error
    from legion import logs

    logs.configure(level="error")  # what workers say to one another when they refuse and retry is part of the figures
    with tempfile.TemporaryDirectory(prefix="legion-simulate-") as folder:
        show(options, Path(folder))
