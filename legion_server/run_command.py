"""`legion-server run`: the life of the running server's run, from the command line."""

from pathlib import Path
from typing import Annotated, Any

import typer

run_app = typer.Typer(help="Pause, resume or stop the run.", no_args_is_help=True)

DataDir = Annotated[
    Path | None, typer.Option(help="Where the server keeps everything. Default: LEGION_DATA_DIR, or legion-data.")
]


@run_app.command()
def pause(data_dir: DataDir = None) -> None:
    """Let workers finish their round, and wait."""
    _say_phase(_call(data_dir, "POST", "/runs/pause"))


@run_app.command()
def resume(data_dir: DataDir = None) -> None:
    """Let a paused run go on, or one that failed from its newest checkpoint."""
    _say_phase(_call(data_dir, "POST", "/runs/resume"))


@run_app.command()
def stop(data_dir: DataDir = None) -> None:
    """End the run for good, with its newest checkpoint; the next one in the queue begins."""
    _say_phase(_call(data_dir, "POST", "/runs/stop"))


def _say_phase(reply: bytes) -> None:
    from legion.messages import Health

    health = Health.model_validate_json(reply)
    typer.echo(f"{health.run_id} is {health.phase}")


def _call(data_dir: Path | None, method: str, path: str, **arguments: Any) -> bytes:
    from legion_server.client import call
    from legion_server.settings import load_settings

    return call(load_settings(data_dir=data_dir), method, path, **arguments)
