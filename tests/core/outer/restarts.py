"""Restarts of a team: its members' states go through files, and another cluster of the same layout takes them up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from legion.codec.api import Floats
from legion.config import RoundsConfig
from legion.ids import ClusterId, Rank
from legion.layout import Bounds
from legion.outer.log import Anchor, OuterStep, apply
from legion.outer.state import StateInfo, kept_spans, opened, write_state
from legion.rounds import RoundRecord
from tests.core.outer.small_rounds import RUN, SHARES, TOTAL, UNITS
from tests.core.outer.teams import WHOLE, Team, World


def keep(team: Team, folder: Path, *, final: bool = True) -> list[Path]:
    """A file for every member."""
    return [keep_member(team, rank, folder / f"{team.cluster}-{rank}", final=final) for rank in team.layout.ranks]


def keep_member(team: Team, rank: Rank, path: Path, *, final: bool) -> Path:
    former, waiting, anchor = team.members[rank].state(final=final)
    info = StateInfo(
        run_id=RUN,
        config_digest="0" * 64,
        units=UNITS,
        shares=SHARES[team.cluster],
        rank=rank,
        cluster=former.cluster,
        sent_as=former.sent_as,
        anchor=former.anchor,
        final=final,
        steps=team.members[rank].progress.steps,
        tokens=team.members[rank].progress.tokens,
        optimizer_steps=3,
        momentum=anchor.momentum is not None,
        spans=kept_spans(waiting),
    )
    slices = {"weights": team.slices[rank], "anchor": anchor.values}
    slices |= {name: np.full_like(anchor.values, 0.5) for name in ("exp_avg", "exp_avg_sq")}
    if anchor.momentum is not None:
        slices["momentum"] = anchor.momentum
    write_state(path, info, slices, list(waiting.values()))
    return path


def by_updates(files: Sequence[Path], name: ClusterId, config: RoundsConfig, *, rounds: int) -> Team:
    """Another team, at the anchor that the files are of."""
    layout_of_it = Team(name, config, np.zeros(TOTAL, np.float32), rounds=rounds)
    theta = np.zeros(TOTAL, np.float32)
    for rank, path in enumerate(files):
        with opened(path) as kept:
            kept.check()
            anchor = kept.info.anchor
            mine = np.empty_like(layout_of_it.slices[rank])
            kept.read("anchor", mine)
            scatter(layout_of_it, Rank(rank), mine, theta)
    team = Team(name, config, theta, rounds=rounds, anchor=anchor)
    for rank, path in enumerate(files):
        with opened(path) as kept:
            kept.read("weights", team.slices[rank])
            team.members[rank].restore(kept.info.former, kept.waiting())
    return team


def by_checkpoint(
    files: Sequence[Path],
    name: ClusterId,
    config: RoundsConfig,
    theta: Floats,
    anchor: int,
    missed: Sequence[RoundRecord],
    *,
    rounds: int,
) -> Team:
    """Another team, at a newer anchor `theta`; `missed`: what the log still has of the rounds between."""
    team = Team(name, config, theta, rounds=rounds, anchor=anchor)
    for rank, path in enumerate(files):
        with opened(path) as kept:
            kept.add_difference(team.slices[rank])
            team.members[rank].restore(kept.info.former, kept.waiting(), missed)
    return team


def enter(world: World, team: Team, *instead_of: Team) -> None:
    """In the round that is open, with all that the log has."""
    world.teams = [*(other for other in world.teams if other not in instead_of), team]
    plans = {number: plan for office in world.offices for number, plan in office.plans.items()}
    blobs = {digest: blob for old in (*instead_of, *world.teams) for digest, blob in old.offices[0].blobs.items()}
    for old in instead_of:
        plans |= old.offices[0].plans
    for office in team.offices:
        office.plans, office.blobs = dict(plans), dict(blobs)
        office.records = {record.round: record for record in world.records}
        office.ready = len(world.records)
    world.open()
    for member in team.members:
        member.enter(len(world.records))


def scatter(team: Team, rank: Rank, values: Floats, theta: Floats) -> None:
    for f in team.layout.fragments(rank, WHOLE):
        theta[f.flat.start : f.flat.stop] = values[f.slice_offset :][: len(f.flat)]


def thetas(theta_0: Floats, world: World, blobs: dict[str, bytes]) -> list[Floats]:
    """Every anchor, by the log."""
    found = [theta_0.copy()]

    def whole(span: Bounds) -> tuple[object, ...]:
        return Team(ClusterId("a"), world.config, theta_0, rounds=1).layout.fragments(Rank(0), span)

    for record in world.records:
        anchor = Anchor(found[-1].copy())
        apply(anchor, record, whole, blobs.__getitem__, OuterStep())  # type: ignore[arg-type]
        found.append(anchor.values)
    return found
