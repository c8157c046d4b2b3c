"""What every command needs: the home it is about, the agent's answer, and one way to show it."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from legion_client.paths import Home

if TYPE_CHECKING:
    from legion_client.control.messages import Answer, Request

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output; errors too.")]


def home_of(context: typer.Context) -> Home:
    """As `legion-client --home` said."""
    home = context.find_object(Home)
    return home if home is not None else Home.find()


def ask(home: Home, request: "Request") -> "Answer":
    """The running agent's answer; AgentNotRunning when there is none."""
    from legion_client.control.client import Control

    return asyncio.run(Control(home).request(request))


def show(as_json: bool, facts: Any, text: str) -> None:
    """`facts` for programs, `text` for people."""
    typer.echo(json.dumps(facts) if as_json else text)
