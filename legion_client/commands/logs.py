"""`logs`: what the agent and its engine wrote, also in a form that can be shown to others."""

import getpass
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from legion.errors import LegionError, NotFound
from legion_client.commands.terminal import Json, home_of
from legion_client.paths import Home

if TYPE_CHECKING:
    from legion_client.ui.report import Line

LOOK_AGAIN_S = 0.5


def logs(
    context: typer.Context,
    of: Annotated[Literal["agent", "engine"], typer.Option(help="Whose log.")] = "agent",
    level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Leave out what is less important.")
    ] = "info",
    count: Annotated[int, typer.Option("--lines", min=1, help="How many, counted from the end.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is written, until Ctrl-C.")] = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="For a bug report: no keys, tokens, folders, addresses or names.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the log."""
    from legion_client.ui.report import from_level, parse, tail

    home = home_of(context)
    path = home.agent_log if of == "agent" else home.engine_log
    names = _names(home) if redact else None
    if not path.exists() and not follow:
        raise NotFound(f"there is no log at {path} yet", hint="It is written once Legion has been started.")
    for line in from_level(parse(tail(path)), level)[-count:]:
        typer.echo(_shown(line, names, as_json))
    if follow:
        for text in appended(path):
            for line in from_level(parse(text), level):
                typer.echo(_shown(line, names, as_json))


def appended(path: Path) -> Iterator[str]:
    """Whole lines as they are written to `path`, also when it is replaced by a new file; for ever."""
    place, rest = _size(path), b""
    while True:
        size = _size(path)
        if size < place:  # the log was turned over
            place, rest = 0, b""
        if size > place:
            with path.open("rb") as file:
                file.seek(place)
                rest += file.read(size - place)
            place = size
            whole, newline, rest = rest.rpartition(b"\n")
            yield (whole + newline).decode("utf-8", "replace")
        time.sleep(LOOK_AGAIN_S)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _shown(line: "Line", names: list[str] | None, as_json: bool) -> str:
    from legion_client.ui.report import redact

    facts = asdict(line)
    if names is not None:
        facts = {key: redact(value, names=names) if key == "text" else value for key, value in facts.items()}
    if as_json:
        return json.dumps(facts)
    return f"{facts['at']} {facts['level'].upper():7} {facts['name']} {facts['text']}"


def _names(home: Home) -> list[str]:
    """Of this computer, its user and the server: words that no pattern finds."""
    from urllib.parse import urlsplit

    from legion_client.agent.enrolment import Enrolment

    names = [platform.node(), platform.node().partition(".")[0], str(home.root), Path.home().name]
    try:
        names.append(getpass.getuser())
        known = Enrolment.load(home.identity)
    except (OSError, KeyError, LegionError):
        known = None
    if known is not None:
        names += [known.worker_id, urlsplit(known.base_url).hostname or ""]
    return names
