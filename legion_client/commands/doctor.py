"""`doctor`: everything that must be right on this computer, each with what to do if it is not."""

import asyncio

import typer

from legion import check
from legion_client.commands.terminal import Json, home_of

PROBLEM = 3  # exit code


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check everything that Legion needs on this computer, and say what to do. Exit code 3: something is wrong."""
    from legion_client.commands.checks import examine

    checks = asyncio.run(examine(home_of(context)))
    if as_json:
        typer.echo(check.as_json(checks))
    else:
        for one in checks:
            typer.echo("\n".join(one.lines()))
    raise typer.Exit(0 if check.is_healthy(checks) else PROBLEM)
