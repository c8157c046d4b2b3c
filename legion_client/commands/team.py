"""`team`: whom this computer's credit also counts for."""

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from legion.errors import Unusable
from legion_client.commands.account import at_server
from legion_client.commands.terminal import Json, show

if TYPE_CHECKING:
    from legion.accounts import TeamId, TeamView
    from legion_client.agent.accounts import Accounts

app = typer.Typer(help="Found a team, ask to join one, admit who asks.", no_args_is_help=True)

ID = re.compile("[a-z2-7]{16}")
Team = Annotated[str, typer.Argument(metavar="TEAM", help="Its name, or the id in the address of its page.")]
Who = Annotated[str, typer.Argument(metavar="NAME", help="Whose: a nickname.")]


@app.command("show")
def view(
    context: typer.Context,
    team: Annotated[str | None, typer.Argument(metavar="TEAM", help="A name or id; default: yours.")] = None,
    as_json: Json = False,
) -> None:
    """Members and credit; for its founder also who asks to join."""

    async def seen(server: "Accounts") -> "TeamView":
        return await server.team(await (_own(server) if team is None else _named(server, team)))

    _show(as_json, at_server(context, seen))


@app.command()
def found(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the team.")],
    about: Annotated[str, typer.Option(help="What it is about, for its page.")] = "",
    as_json: Json = False,
) -> None:
    """Found a team; you leave the one before."""
    from legion.accounts import TeamRequest

    _show(as_json, at_server(context, lambda server: server.found_team(TeamRequest(name=name, about=about))))


@app.command()
def join(context: typer.Context, team: Team, as_json: Json = False) -> None:
    """Ask to join; its founder answers."""

    async def ask(server: "Accounts") -> "TeamView":
        return await server.ask_to_join(await _named(server, team))

    asked = at_server(context, ask)
    show(as_json, asked.model_dump(mode="json"), f"Asked {asked.name}; its founder answers.")


@app.command()
def leave(context: typer.Context, as_json: Json = False) -> None:
    """Leave your team, or withdraw what you asked. What you earned stays with the team."""

    async def go(server: "Accounts") -> str:
        account = await server.view()
        team = account.team or account.asked
        if team is None:
            raise Unusable("you are in no team and have asked none")
        await server.leave_team(team.team_id)
        return team.name

    name = at_server(context, go)
    show(as_json, {"left": name}, f"Left {name}.")


@app.command()
def admit(context: typer.Context, nickname: Who, as_json: Json = False) -> None:
    """Whoever asked is a member of your team."""
    _answered(context, as_json, lambda server, team: server.admit(team, nickname))


@app.command()
def refuse(context: typer.Context, nickname: Who, as_json: Json = False) -> None:
    """Whoever asked is not taken into your team."""
    _answered(context, as_json, lambda server, team: server.turn_down(team, nickname))


@app.command()
def expel(context: typer.Context, nickname: Who, as_json: Json = False) -> None:
    """A member leaves your team."""
    _answered(context, as_json, lambda server, team: server.expel(team, nickname))


async def _own(server: "Accounts") -> "TeamId":
    team = (await server.view()).team
    if team is None:
        raise Unusable("you are in no team", hint="Ask to join one: legion-client team join TEAM.")
    return team.team_id


async def _named(server: "Accounts", team: str) -> "TeamId":
    return team if ID.fullmatch(team) else (await server.team_called(team)).team_id


def _answered(context: typer.Context, as_json: bool, what: "Callable[[Accounts, TeamId], Awaitable[TeamView]]") -> None:
    async def answer(server: "Accounts") -> "TeamView":
        return await what(server, await _own(server))

    _show(as_json, at_server(context, answer))


def _show(as_json: bool, team: "TeamView") -> None:
    place = "" if team.standing.rank is None else f", place {team.standing.rank:,}"
    lines = [f"{team.name}: {team.standing.credit:,.0f} credit{place}", f"Id: {team.team_id}"]
    lines += [f"Founder: {team.founder}"] if team.founder is not None else []
    lines += [f"Members: {team.member_count:,}"]
    lines += [f"  {member.nickname}" for member in team.members]
    lines += [f"Asks to join: {one.nickname}" for one in team.requests]
    show(as_json, team.model_dump(mode="json"), "\n".join(lines))
