"""`status`: what this computer does now and why, once or for as long as somebody looks."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from legion_client.commands.durations import clock
from legion_client.commands.terminal import Json, home_of, show
from legion_client.paths import Home

if TYPE_CHECKING:
    from legion_client.control.messages import DeviceNow, Happening, RunNow, Status

_DOES = {"computing": "computes now", "ready": "may compute"}


def status(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", help="Tell every change, a line each, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show what this computer does now, and why."""
    from legion_client.control.client import Control

    home = home_of(context)
    if follow:
        asyncio.run(_follow(home, as_json))
        return
    now = asyncio.run(Control(home).status())
    show(as_json, now.model_dump(mode="json"), "\n".join(lines(now, time.time())))


async def _follow(home: Home, as_json: bool) -> None:
    from legion_client.control.client import Control

    told = ""
    async with aclosing(Control(home).follow_once()) as changes:
        async for change in changes:
            line = _json_line(change) if as_json else _line(change)
            if line != told:  # people need no second line for what they do not see change
                typer.echo(line if as_json else f"{time.strftime('%H:%M:%S')} {line}")
            told = line


def _json_line(change: "Status | Happening") -> str:
    from legion_client.control.messages import Happening

    kind = "happening" if isinstance(change, Happening) else "status"
    return json.dumps({kind: change.model_dump(mode="json")})


def _line(change: "Status | Happening") -> str:
    from legion_client.control.messages import Happening

    return change.sentence if isinstance(change, Happening) else _headline(change)


def lines(now: "Status", at: float) -> Iterator[str]:
    """The status at `at` (s since 1970), for people."""
    yield _headline(now)
    for why in now.reasons:
        ends = f" Until {clock(why.until, at)}." if why.until is not None else ""
        setting = f" (setting {why.setting})" if why.setting else ""
        yield f"  - {why.sentence}{ends}{setting}"
    if now.finishing:
        yield "  - stops after this round"
    if now.run is not None:
        yield f"run       {_run(now.run)}"
    yield f"speed     {now.tokens_per_s:,.0f} tokens/s"
    given = now.contribution
    rank = f", place {given.rank} of {given.ranked}" if given.rank is not None else ""
    share = f", {given.share:.2%} of the run" if given.share is not None else ""
    yield f"accepted  {given.accepted_tokens:,} tokens{rank}{share}"
    for axis, mode in now.modes.items():
        ends = f" until {clock(mode.until, at)}" if mode.until is not None else ""
        yield f"{axis:<8}  {mode.mode}{ends}"
    for device in now.devices:
        yield f"device    {told(device)}"
    yield f"server    {now.server or 'none joined yet'}"
    if now.worker_id is not None:
        yield f"worker    {now.worker_id}{f' ({now.name})' if now.name else ''}"


def told(device: "DeviceNow") -> str:
    """What it is, and what it does or why it does nothing."""
    parts = [device.name]
    if device.index is not None:
        parts.append(f"graphics card {device.index}")
    if device.cores is not None:
        parts.append(f"{device.cores} {'core' if device.cores == 1 else 'cores'}")
    if device.memory_bytes is not None:
        parts.append(f"{device.memory_bytes / 1e9:.1f} GB")
    does = device.reasons[0].sentence if device.reasons else _DOES.get(device.state, device.state)
    return f"{', '.join(parts)}: {does}"


def _headline(now: "Status") -> str:
    share = f" ({now.progress_share:.0%})" if now.progress_share is not None else ""
    return f"{now.headline}: {now.progress}{share}" if now.progress else now.headline


def _run(run: "RunNow") -> str:
    parts = [f"{run.run_id}, {run.phase}, step {run.step:,} of {run.steps:,}"]
    if run.rounds is not None:
        parts.append(f"round {run.round or 0} of {run.rounds}")
    parts.append(f"{run.workers} workers")
    if run.loss is not None:
        parts.append(f"loss {run.loss:.3f}")
    return ", ".join(parts)
