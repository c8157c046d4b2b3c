"""`settings list|get|set`: by the running agent where there is one, else in the file that the next one reads."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from legion.errors import AgentNotRunning, ProtocolMismatch, Unusable
from legion_client.commands.terminal import Json, ask, home_of, show
from legion_client.paths import Home

if TYPE_CHECKING:
    from legion_client.control.messages import SettingsAre


def _names(incomplete: str) -> list[str]:
    """For the shell: settings that go on as somebody has begun."""
    from legion_client.settings import describe

    return [name for name in describe() if name.startswith(incomplete)]


def _assignments(incomplete: str) -> list[str]:
    """A setting's name with "=", and after that its choices."""
    from legion_client.settings import describe

    name, equals, _ = incomplete.partition("=")
    if not equals:
        return [f"{found}=" for found in _names(incomplete)]
    setting = describe().get(name)
    choices = () if setting is None else ("true", "false") if setting.kind == "switch" else setting.choices
    return [text for choice in choices if (text := f"{name}={choice}").startswith(incomplete)]


app = typer.Typer(help="See and change what you have decided.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(help="Only settings with all these words.")] = None,
    as_json: Json = False,
) -> None:
    """Show all settings, what each is for, and which you have changed."""
    from legion_client.settings import describe

    found = _current(home_of(context))
    chosen, told = set(found.chosen), {}
    for name, setting in describe().items():
        if name in found.values and setting.matches(" ".join(words or ())):
            told[name] = {"value": found.values[name], "chosen": name in chosen, "description": setting.description}
    lines = [
        f"{'*' if entry['chosen'] else ' '} {name} = {_shown(entry['value'])}\n    {entry['description']}"
        for name, entry in told.items()
    ]
    show(as_json, told, "\n".join([*lines, "(* you have set this)"] if lines else ["No setting has these words."]))


@app.command("get")
def get(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As in the list.", autocompletion=_names)],
    as_json: Json = False,
) -> None:
    """Show one setting."""
    from legion_client.settings.describe import known

    known(name)
    found = _current(home_of(context))
    facts = {"name": name, "value": found.values.get(name), "chosen": name in found.chosen}
    show(as_json, facts, _shown(facts["value"]))


@app.command("set")
def set_(
    context: typer.Context,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE...", help="NAME= takes one back to its default.", autocompletion=_assignments
        ),
    ],
    as_json: Json = False,
) -> None:
    """Change settings: all that are given, or none if one is wrong."""
    home = home_of(context)
    values = dict(_change(text) for text in changes)
    apply(home, values)
    now = _current(home)
    facts = {name: now.values.get(name) for name in values}
    show(as_json, facts, "\n".join(f"{name} = {_shown(value)}" for name, value in facts.items()))


def apply(home: Home, values: dict[str, Any]) -> None:
    """All or none, by the agent if one runs: it then holds at once."""
    from legion_client.control.messages import ChangeSettings
    from legion_client.settings import change

    try:
        ask(home, ChangeSettings(values=values))
    except AgentNotRunning:
        change(home.settings, values)


def _current(home: Home) -> "SettingsAre":
    from legion_client.control.messages import GetSettings, SettingsAre
    from legion_client.settings import read, values

    try:
        answer = ask(home, GetSettings())
    except AgentNotRunning:
        found = read(home.settings)
        if found.problem:
            typer.echo(f"legion-client: {found.problem}", err=True)
        return SettingsAre(values=values(found.settings), chosen=found.chosen)
    if not isinstance(answer, SettingsAre):
        raise ProtocolMismatch("the agent answered a request for its settings with something else")
    return answer


def _change(text: str) -> tuple[str, Any]:
    from legion_client.settings import parse

    name, equals, value = text.partition("=")
    if not equals:
        raise Unusable(f"{text!r} is no change", hint="Write NAME=VALUE, such as power.pause_on_battery=no.")
    return name.strip(), parse(name.strip(), value)


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
