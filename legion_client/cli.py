"""`legion-client`: this computer's part in a run, on the command line.

Exit code 0 means that the run is over or that leaving was asked for; every error has its own (docs/exit-codes.md).
What a command needs is imported when it runs, so that `legion-client status` answers at once.
"""

import asyncio
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from legion.errors import LegionError, Unusable
from legion_client.commands import account, bench, doctor, identity, joining, logs, settings, status, steering, team
from legion_client.commands.terminal import Json, show
from legion_client.paths import Home

if TYPE_CHECKING:
    from legion.identity import Invite
    from legion_client.settings import Settings

app = typer.Typer(pretty_exceptions_enable=False)
for command in (
    status.status,
    steering.pause,
    steering.resume,
    steering.snooze,
    steering.finish,
    steering.mode,
    joining.setup,
    joining.join,
    joining.leave,
    logs.logs,
    doctor.doctor,
    bench.bench,
):
    app.command()(command)
app.add_typer(settings.app, name="settings")
app.add_typer(identity.app, name="identity")
app.add_typer(account.app, name="account")
app.add_typer(team.app, name="team")


@app.callback(invoke_without_command=True)
def client(
    context: typer.Context,
    no_gui: Annotated[bool, typer.Option("--no-gui", help="Run without a window, until the run is over.")] = False,
    join: Annotated[
        str | None, typer.Option(help="A file that holds an invite, or - for standard input.", metavar="FILE|-")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the operator sees; default: this computer's name.")] = None,
    home: Annotated[
        Path | None, typer.Option(help="Folder for identity, cache and logs; also LEGION_HOME. For all commands.")
    ] = None,
    listen: Annotated[str | None, typer.Option(help="Address at which other members reach this computer.")] = None,
    port: Annotated[int | None, typer.Option(help="Port for other members; 0: any free one.")] = None,
    exit_when_done: Annotated[
        bool, typer.Option("--exit-when-done", help="With --no-gui: end with the run, or once 'finish' has been done.")
    ] = False,
    max_hours: Annotated[
        float | None, typer.Option(min=0.0, help="With --no-gui: leave and end after so many hours.")
    ] = None,
    background: Annotated[bool, typer.Option("--background", help="Start in the tray, without a window.")] = False,
    link: Annotated[
        str | None, typer.Option(metavar="URL", help="A legion:// link that was clicked: the window asks about it.")
    ] = None,
    log_format: Annotated[Literal["plain", "json"], typer.Option(help="Of the log on standard error.")] = "plain",
) -> None:
    """Give this computer's idle time to train a language model together with others."""
    context.obj = place = Home.find(home)
    if context.invoked_subcommand is not None:
        return
    from legion import logs as logging_setup

    logging_setup.configure(json_lines=log_format == "json")
    invite = _invite(join, link, no_gui=no_gui)
    options = {"name": name, "listen_host": listen, "listen_port": port}

    def keep_log() -> None:
        place.require_writable()
        logging_setup.configure(json_lines=log_format == "json", file=place.agent_log)

    if not no_gui:
        from legion_client.commands import desktop

        if any(option is not None for option in options.values()):
            _window_settings(place, options)  # what is wrong with them belongs into the terminal
        settings = partial(_window_settings, place, options)
        link = None if invite is None else str(invite)
        raise typer.Exit(desktop.run(place, settings, link, keep_log, background=background))
    from legion_client.commands import headless
    from legion_client.settings import load, override

    chosen = override(load(place.settings), **options)
    running = headless.run(place, chosen, invite, keep_log, exit_when_done=exit_when_done, max_hours=max_hours)
    asyncio.run(running)


def _window_settings(home: Home, options: "dict[str, str | int | None]") -> "Settings":
    """A window says itself what is wrong in the file; who starts it from a menu sees no terminal."""
    from legion_client.settings import override, read

    return override(read(home.settings).settings, **options)


def _invite(join: str | None, link: str | None, *, no_gui: bool) -> "Invite | None":
    """What a link wants is never done without a question, and a question needs a window."""
    if link is None:
        return None if join is None else joining.read_invite(join, on_command_line=True)
    from legion.identity import Invite

    if no_gui or join is not None:
        raise Unusable("a link is asked about in the window", hint="Leave --no-gui and --join out.")
    return Invite.parse(link)


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint folder, as the server assembles it.")],
    prompt: Annotated[str, typer.Option(help="The text to go on from.")],
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the most likely token.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    as_json: Json = False,
) -> None:
    """Continue a text with a trained model."""
    # torch takes seconds to import and the agent must never have it.
    from legion_client.generate import generate as continue_text

    text = continue_text(checkpoint, prompt, tokens=tokens, temperature=temperature, seed=seed)
    show(as_json, {"text": text, "prompt": prompt, "temperature": temperature, "seed": seed}, text)


def main() -> None:
    """The program: errors become one sentence and an exit code here, and nowhere else."""
    try:
        if sys.argv[1:2] and sys.argv[1].startswith("legion:"):
            joining.read_invite(sys.argv[1])  # refuses it, and says how else
        app()
    except LegionError as error:
        if "--json" in sys.argv[1:]:
            told = {"slug": error.slug, "message": str(error), "hint": error.hint, "exit_code": error.exit_code}
            print(json.dumps({"error": told}))
        message = f"legion-client: {error}"
        print(f"{message}\n{error.hint}" if error.hint else message, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
