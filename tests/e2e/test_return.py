"""Volunteers who stop for the night and go on in the morning: a real server, real clients, nothing but signals."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from legion.outer.state import opened
from legion_client.paths import Home
from tests.e2e.running import Program, small_run

STEPS = 80


@pytest.mark.timeout(400)
def test_who_stops_for_the_night_goes_on_in_the_morning(run: Callable[..., Program], tmp_path: Path) -> None:
    _, admin = small_run(run, tmp_path, steps=STEPS, rounds={"steps": 4, "checkpoint_every": 3})
    invite = admin.call("POST", "/invites", {"uses": 2})["invite"]
    homes = [Home(tmp_path / name) for name in ("attic", "cellar")]
    evening = [
        run("legion_client", "--no-gui", "--exit-when-done", "--join", invite, "--home", home.root) for home in homes
    ]
    for client in evening:
        client.until("anchor round=5 ")
    for client in evening:
        client.terminate()
    assert [client.ended() for client in evening] == [0, 0], evening[0].output + evening[1].output
    kept = [anchor_of(home) for home in homes]
    assert min(kept) >= 4
    morning = [run("legion_client", "--no-gui", "--exit-when-done", "--home", home.root) for home in homes]
    assert [client.ended() for client in morning] == [0, 0], morning[0].output + morning[1].output
    for client, anchor, home in zip(morning, kept, homes, strict=True):
        assert re.search(f"local state taken up kept_at={anchor} ", client.output), client.output
        assert "Traceback" not in client.output
        assert not home.local_state.exists(), "the run is complete"
    metrics = admin.call("GET", "/metrics")
    assert (metrics["phase"], metrics["step"]) == ("complete", STEPS)
    assert metrics["rounds"]["counters"]["root_mismatches"] == 0


def anchor_of(home: Home) -> int:
    with opened(home.local_state) as kept:
        kept.check()
        assert kept.info.final
        return kept.info.anchor
