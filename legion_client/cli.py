"""`legion-client`: this computer's part in a run, on the command line.

Exit code 0 means that the run is over or that leaving was asked for; every error has its own (docs/exit-codes.md).
"""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from legion import logs
from legion.errors import LegionError, Unusable
from legion.identity import Invite
from legion_client.agent.headless import give
from legion_client.paths import Home
from legion_client.settings import load, override

logger = logging.getLogger("legion_client")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

NO_WINDOW = "The desktop app is not part of this version: use 'legion-client --no-gui'."


@app.callback(invoke_without_command=True)
def client(
    context: typer.Context,
    no_gui: Annotated[bool, typer.Option("--no-gui", help="Run without a window, until the run is over.")] = False,
    join: Annotated[
        str | None, typer.Option(help="An invite, a file that holds one, or - for standard input.", metavar="INVITE")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the operator sees; default: this computer's name.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder for identity, cache and logs; also LEGION_HOME.")] = None,
    listen: Annotated[str | None, typer.Option(help="Address at which other members reach this computer.")] = None,
    port: Annotated[int | None, typer.Option(help="Port for other members; 0: any free one.")] = None,
    log_format: Annotated[Literal["plain", "json"], typer.Option(help="Of the log on standard error.")] = "plain",
) -> None:
    """Give this computer's idle time to train a language model together with others."""
    if context.invoked_subcommand is not None:
        return
    if not no_gui:
        raise Unusable(NO_WINDOW, hint="")
    logs.configure(json_lines=log_format == "json")
    place = Home.find(home)
    settings = override(load(place.settings), name=name, listen_host=listen, listen_port=port)
    asyncio.run(give(place, settings, read_invite(join)))


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint folder, as the server assembles it.")],
    prompt: Annotated[str, typer.Option(help="The text to go on from.")],
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the most likely token.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
) -> None:
    """Continue a text with a trained model."""
    # torch takes seconds to import and the agent must never have it.
    from legion_client.generate import generate as continue_text

    print(continue_text(checkpoint, prompt, tokens=tokens, temperature=temperature, seed=seed))


def read_invite(source: str | None) -> Invite | None:
    """The invite in `source`: itself, a file's content, or with "-" the first line of standard input.

    The last two keep it out of the list of processes, which every user of the machine can read.
    """
    if source is None:
        return None
    if source == "-":
        return Invite.parse(sys.stdin.readline())
    if source.startswith("legion:"):
        return Invite.parse(source)
    try:
        return Invite.parse(Path(source).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"no invite could be read from {source}: {error}") from error


def main() -> None:
    """The program: errors become one sentence and an exit code here, and nowhere else."""
    try:
        app()
    except LegionError as error:
        message = f"legion-client: {error}"
        print(f"{message}\n{error.hint}" if error.hint else message, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
