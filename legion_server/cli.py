"""The command `legion-server`. Parts are imported when a command needs them, so that --help is fast."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from legion.errors import LegionError
from legion_server.backup_command import backup, check, restore
from legion_server.doctor.command import doctor
from legion_server.relay.command import relay
from legion_server.run_command import run_app
from legion_server.simulate.command import simulate
from legion_server.up.command import up

app = typer.Typer(
    name="legion-server",
    help="Coordinate the training of a language model by many computers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="See and change what the run trains.", no_args_is_help=True)
app.add_typer(config_app, name="config")
relays_app = typer.Typer(help="List the relays that have enrolled, or remove one.", invoke_without_command=True)
app.add_typer(relays_app, name="relays")
app.add_typer(run_app, name="run")
app.command()(up)
app.command()(simulate)
app.command()(relay)
app.command()(doctor)
app.command()(backup)
app.command()(restore)
app.command()(check)

DataDir = Annotated[
    Path | None, typer.Option(help="Where the server keeps everything. Default: LEGION_DATA_DIR, or legion-data.")
]


@app.command()
def serve(
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: LEGION_HOST, or all.")] = None,
    port: Annotated[int | None, typer.Option(help="0: any free port. Default: LEGION_PORT, or 8000.")] = None,
    public_host: Annotated[str | None, typer.Option(help="Name or address that invites send workers to.")] = None,
    assembler: Annotated[
        bool | None, typer.Option("--assembler/--no-assembler", help="Join checkpoints into folders for transformers.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest complete checkpoint.")] = False,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written with 'HOST PORT' once requests are answered.")
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object a line.")] = False,
) -> None:
    """Run the server until Ctrl-C or SIGTERM."""
    from legion import logs
    from legion_server.serving import run
    from legion_server.settings import load_settings

    logs.configure(level=log_level, json_lines=json_logs)
    settings = load_settings(data_dir=data_dir, host=host, port=port, public_host=public_host, assembler=assembler)
    run(settings, typer.echo, resume=resume, ready_file=ready_file)


@app.command()
def invite(
    data_dir: DataDir = None,
    uses: Annotated[int, typer.Option(min=1, help="How many workers may join with it.")] = 1,
    days: Annotated[float, typer.Option(min=0.001, help="How long it is valid.")] = 7.0,
    relay: Annotated[
        bool, typer.Option("--relay", help="For relays (legion-server relay), and for no worker.")
    ] = False,
) -> None:
    """Print an invite for the running server."""
    from legion.messages import InviteReply

    body = {"uses": uses, "valid_s": days * 86_400, "relay": relay}
    reply = InviteReply.model_validate_json(_call(data_dir, "POST", "/invites", json=body))
    typer.echo(reply.invite)


@app.command()
def workers(data_dir: DataDir = None) -> None:
    """List the workers of the running server."""
    from datetime import datetime

    from pydantic import TypeAdapter
    from rich.console import Console
    from rich.table import Column, Table

    from legion.messages import WorkerView

    views = TypeAdapter(list[WorkerView]).validate_json(_call(data_dir, "GET", "/workers"))
    whole = Column("worker", no_wrap=True, min_width=32)  # `revoke` wants the whole id, however narrow the terminal
    table = Table(whole, "name", "state", "step", "address", "last heard")
    for view in views:
        address = f"{view.endpoint.host}:{view.endpoint.port}" if view.endpoint else ""
        if view.endpoint is not None and view.endpoint.relayed:
            address += " (relay)"
        heard = datetime.fromtimestamp(view.last_seen).strftime("%d %b %H:%M:%S")
        table.add_row(view.worker_id, view.name, view.failure or view.state, str(view.step), address, heard)
    Console().print(table)


@app.command()
def revoke(worker_id: Annotated[str, typer.Argument(help="As 'workers' shows it.")], data_dir: DataDir = None) -> None:
    """Take a worker's access back."""
    _call(data_dir, "DELETE", f"/workers/{worker_id}")
    typer.echo(f"worker {worker_id} is revoked")


@app.command()
def clusters(
    data_dir: DataDir = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why each worker is where it is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All of it, for programs.")] = False,
) -> None:
    """List who trains together."""
    from legion.links import ClustersView
    from legion_server.cluster_list import lines

    reply = _call(data_dir, "GET", "/network/clusters")
    if as_json:
        typer.echo(reply.decode())
        return
    for line in lines(ClustersView.model_validate_json(reply), explain=explain):
        typer.echo(line)


@relays_app.callback()
def relays(
    context: typer.Context,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it, for programs.")] = False,
) -> None:
    """List the relays that have enrolled: where they are, what they carry, and how long their certificates last."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from legion_server.relay_list import parsed, table

    reply = _call(data_dir, "GET", "/relays/enrolled")
    if as_json:
        typer.echo(reply.decode())
        return
    Console().print(table(parsed(reply)))


@relays_app.command("remove")
def remove_relay(
    name: Annotated[str, typer.Argument(help="Name or id, as 'relays' shows them.")], data_dir: DataDir = None
) -> None:
    """Take a relay's access back."""
    from legion_server.relay_list import named, parsed

    found = named(parsed(_call(data_dir, "GET", "/relays/enrolled")), name)
    _call(data_dir, "DELETE", f"/relays/{found.relay_id}")
    typer.echo(f"relay {found.name} ({found.relay_id}) is removed")


@config_app.command("show")
def show_config(data_dir: DataDir = None) -> None:
    """Print the run's configuration as JSON."""
    import json

    typer.echo(json.dumps(json.loads(_call(data_dir, "GET", "/training/config")), indent=2))


@config_app.command("set")
def set_config(
    changes: Annotated[list[str], typer.Argument(help="NAME=VALUE, such as steps=500 or model.preset=small.")],
    data_dir: DataDir = None,
) -> None:
    """Change the run's configuration, before it starts."""
    from legion_server.client import parse_changes

    _call(data_dir, "PUT", "/training/config", json=parse_changes(changes))
    typer.echo("changed")


def _call(data_dir: Path | None, method: str, path: str, **arguments: Any) -> bytes:
    from legion_server.client import call
    from legion_server.settings import load_settings

    return call(load_settings(data_dir=data_dir), method, path, **arguments)


def main() -> None:
    """Entry point: a LegionError becomes one sentence, a hint, and its exit code."""
    try:
        app()
    except LegionError as error:
        typer.echo(f"legion-server: {error}. {error.hint}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
