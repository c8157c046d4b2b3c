"""`legion-server relay` on the command line; the server's program registers it."""

from pathlib import Path
from typing import Annotated

import typer

from legion.errors import Unusable

Join = Annotated[
    Path | None, typer.Option(help="File with an invite for relays ('legion-server invite --relay'); once.")
]
Mbit = Annotated[float, typer.Option(min=0.1, help="Most that all workers' sessions carry together, in Mbit/s.")]
WorkerMbit = Annotated[float, typer.Option(min=0.1, help="Most for one worker, in Mbit/s.")]
WorkerGb = Annotated[float, typer.Option(min=0.001, help="Most for one worker in a day, in GB.")]


def relay(
    data_dir: Annotated[Path, typer.Option(help="Where the relay keeps its key and enrolment.")] = Path("legion-relay"),
    join: Join = None,
    name: Annotated[str, typer.Option(help="What the operator sees; default: this machine's name.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(min=0, max=65535, help="For everything; 0: any free port.")] = 8443,
    public_host: Annotated[
        str | None, typer.Option(help="Name or address that workers find it at; default: where the server sees it.")
    ] = None,
    mbit: Mbit = 1000.0,
    worker_mbit: WorkerMbit = 200.0,
    worker_gb_a_day: WorkerGb = 500.0,
    sessions: Annotated[int, typer.Option(min=1, help="Most connections between workers at a time.")] = 4096,
    ready_file: Annotated[Path | None, typer.Option(help="Written with 'HOST PORT' once it listens.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object a line.")] = False,
) -> None:
    """Carry the traffic of workers that cannot be reached directly, until Ctrl-C or SIGTERM."""
    import contextlib
    import platform

    from legion import logs
    from legion.identity import Invite
    from legion_server.relay.enrolment import Enrolment, enrol
    from legion_server.relay.routes import Limits, Routes
    from legion_server.relay.service import run
    from legion_server.transport import listen

    logs.configure(level=log_level, json_lines=json_logs)
    enrolment = Enrolment.load(data_dir)
    if enrolment is None:
        if join is None:
            raise Unusable(
                "this relay has enrolled with no server yet",
                hint="Make an invite with 'legion-server invite --relay', and pass it with --join FILE.",
            )
        enrolment = enrol(data_dir, Invite.parse(_text(join)), name or platform.node()[:64] or "relay")
    limits = Limits(
        sessions=sessions,
        bytes_per_s=mbit * 125_000,
        worker_bytes_per_s=worker_mbit * 125_000,
        worker_day_bytes=worker_gb_a_day * 1e9,
    )
    listener = listen(host, port)
    with contextlib.closing(listener):
        run(enrolment, listener, Routes(limits), public_host=public_host, ready_file=ready_file, say=typer.echo)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise Unusable(f"{file} cannot be read: {error.strerror}") from error
