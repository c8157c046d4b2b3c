"""`account`: whose this computer is at its server. Without any of it, it contributes all the same."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from legion.errors import Unusable
from legion_client.commands.terminal import Json, home_of, show

if TYPE_CHECKING:
    from legion.accounts import AccountView, RecoveryReply
    from legion_client.agent.accounts import Accounts

app = typer.Typer(help="Your name at the server, your other computers, your page.", no_args_is_help=True)

T = TypeVar("T")
NOBODYS = "This computer is device {device}, and nobody's yet. Claim a name: legion-client account claim NAME"
PHRASE = "Recovery phrase, shown this once; whoever has it can link computers to your account:\n  {phrase}"
Nickname = Annotated[str, typer.Argument(metavar="NAME", help="3 to 24 letters and digits, with - _ . between them.")]
Listed = Annotated[bool | None, typer.Option("--listed/--unlisted", help="Whether public boards show it.")]
Exported = Annotated[
    bool | None, typer.Option("--export/--no-export", help="Whether the statistics that anybody may download have it.")
]


def at_server(context: typer.Context, what: "Callable[[Accounts], Awaitable[T]]") -> T:
    """What the server of this home answers; it needs no agent."""
    from legion_client.agent.accounts import Accounts
    from legion_client.agent.coordinator import Coordinator
    from legion_client.agent.enrolment import Enrolment

    known = Enrolment.load(home_of(context).identity)
    if known is None:
        raise Unusable("this computer has joined no server yet", hint="Join one: legion-client join FILE.")

    async def ask() -> T:
        async with Coordinator(known.base_url, known.context, known.worker_id, known.token) as server:
            return await what(Accounts(server))

    return asyncio.run(ask())


@app.command("show")
def view(context: typer.Context, as_json: Json = False) -> None:
    """Name, computers, team and credit."""
    account = at_server(context, lambda server: server.view())
    show(as_json, account.model_dump(mode="json"), told(account))


@app.command()
def claim(
    context: typer.Context,
    nickname: Nickname,
    listed: Listed = None,
    exported: Exported = None,
    as_json: Json = False,
) -> None:
    """Take a name; what this computer has done so far comes with it."""
    from legion.accounts import ClaimRequest

    wish = ClaimRequest(nickname=nickname, listed=listed is not False, exported=exported is True)
    _show_phrase(as_json, at_server(context, lambda server: server.claim(wish)))


@app.command()
def change(
    context: typer.Context,
    nickname: Annotated[str | None, typer.Option(help="Another name.")] = None,
    listed: Listed = None,
    exported: Exported = None,
    as_json: Json = False,
) -> None:
    """Another name, or where it is shown."""
    from legion.accounts import AccountChange

    if nickname is None and listed is None and exported is None:
        raise Unusable(
            "nothing is to be changed", hint="Name --nickname, --listed, --unlisted, --export or --no-export."
        )
    wish = AccountChange(nickname=nickname, listed=listed, exported=exported)
    account = at_server(context, lambda server: server.change(wish))
    show(as_json, account.model_dump(mode="json"), told(account))


@app.command()
def code(context: typer.Context, as_json: Json = False) -> None:
    """A code of 8 digits that links another computer to your account, once and within 10 minutes."""
    given = at_server(context, lambda server: server.link_code())
    minutes = max(1, round((given.expires_at - time.time()) / 60))
    text = f"{given.code}\nType it on the other computer, after 'legion-client account link', within {minutes} minutes."
    show(as_json, given.model_dump(mode="json"), text)


@app.command()
def link(context: typer.Context, as_json: Json = False) -> None:
    """Link this computer to your account, with a code or the recovery phrase: asked for, or the first line of input."""
    secret = _secret()
    account = at_server(context, lambda server: server.link(secret))
    show(as_json, account.model_dump(mode="json"), told(account))


@app.command()
def recovery(context: typer.Context, as_json: Json = False) -> None:
    """Another recovery phrase; the one before is worth nothing any more."""
    _show_phrase(as_json, at_server(context, lambda server: server.new_phrase()))


@app.command()
def remove(
    context: typer.Context,
    number: Annotated[int, typer.Argument(help="The device's number, as 'account show' has it.", min=1)],
    as_json: Json = False,
) -> None:
    """A computer is yours no more; what it has earned stays yours."""
    account = at_server(context, lambda server: server.unlink(number))
    show(as_json, account.model_dump(mode="json"), told(account))


@app.command()
def page(
    context: typer.Context,
    launch: Annotated[bool, typer.Option("--open", help="In this computer's browser.")] = False,
    as_json: Json = False,
) -> None:
    """A link to your page at the server, signed in: good once, for 5 minutes."""
    given = at_server(context, lambda server: server.sign_in())
    if launch:
        typer.launch(given.url)
    show(as_json, given.model_dump(mode="json"), given.url)


@app.command()
def data(context: typer.Context, as_json: Json = False) -> None:
    """All that the server knows of you: JSON, indented without --json."""
    record = at_server(context, lambda server: server.known())
    show(as_json, record.model_dump(mode="json"), record.model_dump_json(indent=2))


@app.command()
def forget(
    context: typer.Context,
    nickname: Nickname,
    devices: Annotated[
        bool, typer.Option("--devices", help="Your computers leave the server too, and what they said is deleted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete your account for ever. The name is asked for to be sure."""
    from legion.accounts import ForgetRequest

    at_server(context, lambda server: server.forget(ForgetRequest(nickname=nickname, devices=devices)))
    show(as_json, {"forgotten": nickname, "devices": devices}, f"The server has forgotten {nickname}.")


def told(account: "AccountView") -> str:
    """For people."""
    if account.nickname is None:
        return NOBODYS.format(device=account.device)
    place = "" if account.standing.rank is None else f", place {account.standing.rank:,}"
    shown = "" if account.listed else " (on no board)"
    lines = [f"{account.nickname}{shown}: {account.standing.credit:,.0f} credit{place}"]
    if account.team is not None:
        lines.append(f"Team: {account.team.name}{' (yours)' if account.team.is_founder else ''}")
    if account.asked is not None:
        lines.append(f"Asked to join: {account.asked.name}")
    for device in account.devices:
        mark = " (this computer)" if device.is_this else ""
        lines.append(f"Device {device.number}: {device.credit:,.0f} credit{mark}")
    return "\n".join(lines)


def _show_phrase(as_json: bool, reply: "RecoveryReply") -> None:
    text = f"{told(reply.account)}\n{PHRASE.format(phrase=reply.recovery_phrase)}"
    show(as_json, reply.model_dump(mode="json"), text)


def _secret() -> str:
    """Never from the command line: every user of this computer can read that."""
    if sys.stdin.isatty():
        return str(typer.prompt("Code or recovery phrase", hide_input=True)).strip()
    return sys.stdin.readline().strip()
