"""`legion-server up` on the command line; the server's program registers it."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer

from legion.errors import Unusable
from legion_server.up import defaults
from legion_server.up.console import Screen
from legion_server.up.options import Options


def up(
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many clients, each a process; default 4, with --verify 2.")
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(min=1, help="Equal clusters, which average by rounds; default 2 if that goes.")
    ] = None,
    model: Annotated[str, typer.Option(help="A preset: tiny, small, gpt2, llama-1b, ...")] = "tiny",
    dataset: Annotated[
        str, typer.Option(help="python_stdlib or distributed_dummy; text and huggingface need --set data....")
    ] = "python_stdlib",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; default: what the model needs.")] = None,
    codec: Annotated[
        Literal["none", "bf16", "int8"] | None, typer.Option(help="Of weights and gradients between the clients.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the configuration, as optimizer.lr=0.002."),
    ] = None,
    logs_dir: Annotated[Path | None, typer.Option(help="Also write each process's output to a file here.")] = None,
    assembler: Annotated[
        bool, typer.Option("--assembler/--no-assembler", help="Join slices into checkpoints transformers loads.")
    ] = True,
    report: Annotated[Path | None, typer.Option(help="Write what the run was as JSON to this file.")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Keep the server up after the run, until Ctrl-C.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest complete checkpoint in --data-dir.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Train the same in one process afterwards; exit code 1 if it differs.")
    ] = False,
    data_dir: Annotated[Path, typer.Option(help="Every run gets a new folder in here.")] = Path("legion-data"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the server and its status page; 0: any.")] = 8000,
) -> None:
    """Train a model on this machine: server, clients and assembler, started, watched and ended together."""
    wanted = defaults.team(workers, clusters, verify=verify)
    options = Options(
        workers=None if resume and workers is None else wanted[0],
        clusters=wanted[1],
        model=model,
        dataset=dataset,
        steps=steps,
        codec=codec,
        settings=tuple(settings or ()),
        logs_dir=logs_dir,
        assembler=assembler,
        report=report,
        stay=stay,
        resume=resume,
        verify=verify,
        data_dir=data_dir,
        port=port,
    )
    check(options, clusters_said=clusters is not None)
    # The database library takes its time to load; --help has none of it.
    from legion_server.up.run import up as run_up

    with Screen() as screen:
        code = asyncio.run(run_up(options, screen))
    raise typer.Exit(code)


def check(options: Options, *, clusters_said: bool = False) -> None:
    """Unusable for what does not go together."""
    changes = options.steps is not None or options.codec is not None or bool(options.settings)
    if options.resume and (options.verify or clusters_said or changes):
        raise Unusable(
            "--resume goes on with the run's own configuration: "
            "--clusters, --steps, --codec, --set and --verify do not go with it",
            hint="Leave them out, or start a new run without --resume.",
        )
    if options.verify and not options.assembler:
        raise Unusable("--verify compares the final checkpoint, which --no-assembler leaves out", hint="Drop one.")
    if options.workers is not None and not options.resume and options.workers % options.clusters:
        raise Unusable(
            f"{options.workers} workers cannot form {options.clusters} equal clusters",
            hint="Make --workers a multiple of --clusters.",
        )
    if options.verify and options.clusters > 1:
        raise Unusable("--verify compares with one process step by step; clusters differ from that by design")
