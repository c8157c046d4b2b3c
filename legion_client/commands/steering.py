"""`pause`, `resume`, `snooze`, `finish`, `mode`: what the running agent is told to do."""

import time
from typing import Annotated, Literal

import typer

from legion_client.commands.durations import clock, until
from legion_client.commands.terminal import Json, ask, home_of, show

For = Annotated[
    str | None, typer.Option("--for", metavar="TIME", help="15m, 1h, 4h, tomorrow ...; without it until you say so.")
]


def pause(context: typer.Context, for_: For = None, as_json: Json = False) -> None:
    """Compute nothing, until you resume or the time is over."""
    _pause(context, for_, as_json)


def snooze(
    context: typer.Context,
    duration: Annotated[str, typer.Argument(metavar="TIME", help="15m, 1h, 4h, tomorrow ...")],
    as_json: Json = False,
) -> None:
    """Compute nothing for a while."""
    _pause(context, duration, as_json)


def resume(context: typer.Context, as_json: Json = False) -> None:
    """Take a pause, a snooze or 'finish' back."""
    from legion_client.control.messages import Resume

    ask(home_of(context), Resume())
    show(as_json, {"paused": False}, "Resumed.")


def finish(context: typer.Context, as_json: Json = False) -> None:
    """Finish this round and contribute what has been learned, then pause."""
    from legion_client.control.messages import Finish

    ask(home_of(context), Finish())
    show(as_json, {"finishing": True}, "This round is finished first, then Legion pauses.")


def mode(
    context: typer.Context,
    axis: Annotated[Literal["cpu", "gpu", "network"], typer.Argument(help="Of what.")],
    chosen: Annotated[Literal["auto", "always", "never"], typer.Argument(metavar="MODE", help="auto, always or never")],
    for_: For = None,
    as_json: Json = False,
) -> None:
    """Overrule your settings for the processor, the graphics cards or the network."""
    from legion_client.control.messages import SetMode

    now = time.time()
    end = None if for_ is None else until(for_, now)
    ask(home_of(context), SetMode(axis=axis, mode=chosen, until=end))
    show(as_json, {"axis": axis, "mode": chosen, "until": end}, f"{axis}: {chosen}{_ending(end, now)}.")


def _pause(context: typer.Context, duration: str | None, as_json: bool) -> None:
    from legion_client.control.messages import Pause

    now = time.time()
    end = None if duration is None else until(duration, now)
    ask(home_of(context), Pause(until=end))
    show(as_json, {"paused": True, "until": end}, f"Paused{_ending(end, now)}.")


def _ending(end: float | None, now: float) -> str:
    return "" if end is None else f" until {clock(end, now)}"
