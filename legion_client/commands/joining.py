"""`join`, `leave`, `setup`: which server this computer gives its time to."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from legion.errors import AgentNotRunning, InviteInvalid, LegionError, Unusable
from legion_client.commands.terminal import Json, ask, home_of, show
from legion_client.paths import Home

if TYPE_CHECKING:
    from legion.identity import Invite

logger = logging.getLogger(__name__)

ON_COMMAND_LINE = "an invite must not stand on a command line: every user of this computer can read it there"
HOW_ELSE = "Save it to a file and name the file, or pass - and paste it: legion-client join -"

Source = Annotated[str, typer.Argument(metavar="FILE|-", help="A file that holds the invite, or - for standard input.")]


def join(context: typer.Context, source: Source, as_json: Json = False) -> None:
    """Join a server with the invite that its operator gave you."""
    facts = _join(home_of(context), read_invite(source))
    show(as_json, facts, f"Joined {facts['server']} (authority {facts['authority_sha256']}).")


def leave(context: typer.Context, as_json: Json = False) -> None:
    """Leave the server; this computer's key stays, for the next time."""
    from legion_client.control.messages import Leave

    home = home_of(context)
    try:
        ask(home, Leave())
        server = None
    except AgentNotRunning:
        server = asyncio.run(_leave(home))
    show(as_json, {"left": True, "server": server}, f"Left {server or 'the server'}.")


def setup(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: what is not given keeps its value.")] = False,
    preset: Annotated[
        Literal["light", "balanced", "full"] | None, typer.Option(help="How much of this computer to give.")
    ] = None,
    nickname: Annotated[str | None, typer.Option(help="For the server's public lists.")] = None,
    team: Annotated[str | None, typer.Option(help="Team that is asked to take you in.")] = None,
    invite: Annotated[
        str | None, typer.Option("--join", metavar="FILE|-", help="A file that holds an invite, or -.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Decide how much to give and to whom; the same as the window's first pages."""
    from legion_client.commands.settings import apply
    from legion_client.settings import effect, load, preset_values

    home = home_of(context)
    if not yes:
        preset, nickname, invite = _questions(preset, nickname, invite)
    # Before anything changes: an invite that cannot be read must not leave half a setup.
    invited = None if invite is None else read_invite(invite)
    values: dict[str, Any] = dict(preset_values(preset)) if preset else {}
    values |= {} if nickname is None else {"account.nickname": nickname}
    values |= {} if team is None else {"account.team": team}
    if values:
        apply(home, values)
    joined = None if invited is None else _join(home, invited)
    from legion_client.machine.probe import physical_cores

    means = effect(load(home.settings), physical_cores())
    facts = {"preset": preset, "means": means, "server": joined and joined["server"]}
    lines = [means, f"Joined {joined['server']}." if joined else "", "Start with: legion-client --no-gui"]
    show(as_json, facts, "\n".join(line for line in lines if line))


def _questions(
    preset: Literal["light", "balanced", "full"] | None, nickname: str | None, invite: str | None
) -> tuple[Literal["light", "balanced", "full"] | None, str | None, str | None]:
    if not sys.stdin.isatty():
        raise Unusable("nobody can answer questions here", hint="Pass --yes, with --preset and --join as you like.")
    from legion_client.settings import PRESETS

    if preset is None:
        answer = typer.prompt(f"How much of this computer ({', '.join(PRESETS)})", default="balanced")
        if answer not in PRESETS:
            raise Unusable(f"{answer!r} is none of {', '.join(PRESETS)}")
        preset = answer
    if nickname is None:
        nickname = typer.prompt("Nickname for public lists (empty: none)", default="", show_default=False)
    if invite is None:
        invite = typer.prompt("File with an invite (empty: later)", default="", show_default=False) or None
    return preset, nickname, invite


def read_invite(source: str, *, on_command_line: bool = False) -> "Invite":
    """The invite in a file, or with "-" on the first line of standard input: what stands on a command line, every user
    of the computer can read. `on_command_line` takes one there nevertheless, with a warning."""
    from legion.identity import Invite

    if source == "-":
        return Invite.parse(sys.stdin.readline())
    if source.startswith("legion:"):
        if not on_command_line:
            raise InviteInvalid(ON_COMMAND_LINE, hint=HOW_ELSE)
        invite = Invite.parse(source)
        logger.warning("%s. %s", ON_COMMAND_LINE, HOW_ELSE.replace("client join", "client --no-gui --join"))
        return invite
    try:
        return Invite.parse(Path(source).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"no invite could be read from {source}: {error}") from error


def _join(home: Home, invite: "Invite") -> dict[str, Any]:
    from legion_client.control.messages import Join

    try:
        ask(home, Join(invite=str(invite)))
        worker_id = None
    except AgentNotRunning:
        worker_id = asyncio.run(_enrol(home, invite))
    return {
        "server": f"{invite.host}:{invite.port}",
        "authority_sha256": invite.authority_sha256,
        "worker_id": worker_id,
    }


async def _enrol(home: Home, invite: "Invite") -> str:
    from legion_client.agent.joining import join as enrol
    from legion_client.machine.probe import hardware
    from legion_client.settings import load

    enrolment = await enrol(home.identity, invite, load(home.settings).name, lambda: hardware(home.root))
    return enrolment.worker_id


async def _leave(home: Home) -> str:
    """Without an agent: the server is told if it can be reached, and forgotten in any case."""
    from legion_client.agent.coordinator import Coordinator
    from legion_client.agent.enrolment import ENROLMENT_FILE, Enrolment

    known = Enrolment.load(home.identity)
    if known is None:
        raise Unusable("this computer has joined no server")
    try:
        async with Coordinator(known.base_url, known.context, known.worker_id, known.token) as server:
            await server.leave()
    except LegionError as error:
        typer.echo(f"legion-client: the server could not be told: {error}", err=True)
    (home.identity / ENROLMENT_FILE).unlink(missing_ok=True)
    return known.base_url
