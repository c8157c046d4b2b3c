"""The way back into a run: what of an earlier engine's local state is of use, and what has to be fetched for it."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from legion.checkpoint.storage import storing
from legion.config import RunConfig
from legion.errors import CheckpointInvalid
from legion.ids import ClusterId, Rank
from legion.layout import Bounds, Layout
from legion.messages import Plan
from legion.rounds import RoundRecord
from legion_client.agent.backoff import persistently
from legion_client.agent.coordinator import Coordinator

if TYPE_CHECKING:
    from legion.outer.state import StateInfo

logger = logging.getLogger(__name__)

Way = Literal["updates", "checkpoint"]


@dataclass(frozen=True, slots=True)
class WayBack:
    """With a local state: what its engine is told, and what it needs beside it."""

    local_state: Path
    by: Way
    anchor: int  # that the engine starts from: all updates since are needed
    missed: tuple[RoundRecord, ...] = ()  # rounds between the state and the checkpoint, as far as the log has them


def updates_bytes(records: Sequence[RoundRecord], layout: Layout, rank: Rank) -> int:
    """What a member fetches of these rounds: whole updates of all spans that meet its slice."""
    return sum(
        span.size_bytes
        for record in records
        for (start, stop), span in zip(record.bounds, record.spans, strict=True)
        if layout.fragments(rank, Bounds(start, stop))
    )


def checkpoint_bytes(layout: Layout, rank: Rank, *, momentum: bool) -> int:
    """What it fetches of a checkpoint: its weights, and the outer momentum where the run has one."""
    return 4 * layout.owned(rank) * (2 if momentum else 1)


def catch_up(
    missed: Sequence[RoundRecord], anchor: int, checkpoint: int, layout: Layout, rank: Rank, *, momentum: bool
) -> Way:
    """The cheaper way from theta_anchor to theta_checkpoint; what follows is fetched either way.

    `missed`: what the log still has of the rounds between. A checkpoint that is no newer is of no use, and one update
    that is gone closes that way.
    """
    if checkpoint <= anchor:
        return "updates"
    if {record.round for record in missed} < set(range(anchor, checkpoint)):
        return "checkpoint"
    cheaper = updates_bytes(missed, layout, rank) <= checkpoint_bytes(layout, rank, momentum=momentum)
    return "updates" if cheaper else "checkpoint"


def unfit(info: "StateInfo", plan: Plan, rank: Rank) -> str | None:
    """Why a state cannot be taken up in this plan; None when it can."""
    layout = Layout(plan.shape.sizes, tuple(member.share for member in plan.members))
    if info.run_id != plan.run_id:
        return f"it is of run {info.run_id}"
    if info.config_digest != plan.config_digest:
        return "it is of another configuration"
    if not info.same_slice(layout, rank):
        return "this worker has another part of the model now"
    if info.anchor > plan.round:
        return f"it is of round {info.anchor}, this plan begins with round {plan.round}"
    return None


async def way_back(server: Coordinator, path: Path, plan: Plan, rank: Rank, config: RunConfig) -> WayBack | None:
    """None when nothing is kept, or nothing that fits: that is said, and deleted."""
    info = await asyncio.to_thread(_kept, path, plan, rank)
    if info is None:
        return None
    checkpoint = -(-plan.first_step // config.rounds.steps)
    missed = await _missed(server, info, checkpoint)
    layout = Layout(info.units, info.shares)
    momentum = config.rounds.outer_momentum > 0
    way = catch_up(missed, info.anchor, checkpoint, layout, info.rank, momentum=momentum)
    logger.info("way back by=%s kept_at=%d checkpoint=%d entering=%d", way, info.anchor, checkpoint, plan.round)
    if way == "updates":
        return WayBack(path, way, info.anchor)
    return WayBack(path, way, checkpoint, tuple(_of(record, {info.cluster, info.sent_as}) for record in missed))


def _kept(path: Path, plan: Plan, rank: Rank) -> "StateInfo | None":
    """Read as a whole: what was damaged on the disk must not enter the run."""
    if not path.exists():
        return None
    from legion.outer.state import opened  # noqa: PLC0415  numpy: 14 MB that only who comes back needs

    try:
        with opened(path) as kept:
            reason = unfit(kept.info, plan, rank)
            if reason is None:
                kept.check()
                return kept.info
    except CheckpointInvalid as error:
        reason = str(error)
    logger.warning("local state not used path=%s reason=%s", path, reason)
    with storing(path):
        path.unlink(missing_ok=True)
    return None


async def _missed(server: Coordinator, info: "StateInfo", checkpoint: int) -> list[RoundRecord]:
    found: list[RoundRecord] = []
    since = info.anchor
    while since < checkpoint:
        page = await persistently("rounds", server.rounds, since)
        if not page.records:
            break
        found += [record for record in page.records if record.round < checkpoint]
        since = page.records[-1].round + 1
    return found


def _of(record: RoundRecord, names: set[ClusterId]) -> RoundRecord:
    """What concerns us of a record: the engine's input is a pipe."""
    spans = tuple(
        span.model_copy(update={"included": tuple(i for i in span.included if i.cluster in names)})
        for span in record.spans
    )
    return record.model_copy(update={"spans": spans})
