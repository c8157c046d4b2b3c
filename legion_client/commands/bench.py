"""`bench`: how fast this computer trains, by training: a small model, alone, in a real engine."""

import asyncio
import logging
from typing import Annotated

import typer

from legion_client.commands.terminal import Json, show


def bench(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure, after the first steps.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Measure how many tokens a second this computer trains, on the preset 'tiny'."""
    from legion_client.commands.trial import trial

    logging.basicConfig(level=logging.WARNING)
    found = asyncio.run(trial(seconds))
    facts = {
        "tokens_per_s": round(found.tokens_per_s, 1),
        "steps": found.steps,
        "measured_s": round(found.measured_s, 3),
        "device": found.device,
        "preset": "tiny",
        "peak_rss_bytes": found.peak_rss_bytes,
    }
    text = (
        f"{found.tokens_per_s:,.0f} tokens/s on {found.device} (preset tiny, {found.steps} steps in "
        f"{found.measured_s:.1f} s, {found.peak_rss_bytes / 1e6:.0f} MB of memory)"
    )
    show(as_json, facts, text)
