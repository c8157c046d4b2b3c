"""`doctor`: everything that must be right on this computer, each with what to do if it is not."""

import asyncio
import json
from typing import Literal

import typer

from legion_client.commands.terminal import Json, home_of

PROBLEM = 3  # exit code
Only = Literal["ok", "problem", "skipped"]
_MARKS = {"ok": "ok      ", "problem": "PROBLEM ", "skipped": "-       "}


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check everything that Legion needs on this computer, and say what to do. Exit code 3: something is wrong."""
    from legion_client.commands.checks import examine

    checks = asyncio.run(examine(home_of(context)))
    healthy = all(check.state != "problem" for check in checks)
    if as_json:
        told = [{"name": c.name, "state": c.state, "found": c.found, "advice": c.advice} for c in checks]
        typer.echo(json.dumps({"healthy": healthy, "checks": told}))
    else:
        for check in checks:
            typer.echo(f"{_MARKS[check.state]}{check.name}: {check.found}")
            if check.advice:
                typer.echo(f"        -> {check.advice}")
    raise typer.Exit(0 if healthy else PROBLEM)
