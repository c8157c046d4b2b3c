"""`legion-server doctor` on the command line; the server's program registers it."""

from pathlib import Path
from typing import Annotated

import typer

PROBLEM = 3  # exit code


def doctor(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the server keeps everything. Default: LEGION_DATA_DIR, or legion-data.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="That it is to listen on. Default: LEGION_PORT, or 8000.")] = None,
    public_host: Annotated[str | None, typer.Option(help="Name or address that invites send workers to.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it, for programs.")] = False,
) -> None:
    """Check everything that a server needs on this machine, running or not, and say what to do.

    Changes nothing. Exit code 3: something is wrong.
    """
    import asyncio

    from legion import check, logs
    from legion_server.doctor.checks import examine

    logs.configure(level="error")
    checks = asyncio.run(examine(data_dir=data_dir, port=port, public_host=public_host))
    if as_json:
        typer.echo(check.as_json(checks))
    else:
        for one in checks:
            typer.echo("\n".join(one.lines()))
    raise typer.Exit(0 if check.is_healthy(checks) else PROBLEM)
