"""A member of a run in rounds over a restart of its engine: its local state is kept in a file, and taken up again."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from legion.checkpoint.storage import storing, sync_folder
from legion.codec.api import Encoder, Floats, in_host_memory
from legion.comm.arrays import array_of
from legion.config import RunConfig, config_digest
from legion.errors import CheckpointInvalid, PartInvalid, StorageFailed
from legion.ids import Rank
from legion.messages import Message
from legion.outer import reshard
from legion.outer.contribution import Waiting
from legion.outer.member import Office, Place, RoundMember
from legion.outer.reshard import Files
from legion.outer.state import StateInfo, is_due, kept_spans, opened, size_of, write_state
from legion.zero.engine import Zero3
from legion.zero.optimizers import Slice
from legion_client.engine.points import Points
from legion_client.engine.protocol import StateSaved, Train

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Returned:
    """A member at the start of its engine."""

    member: RoundMember
    optimizer_steps: int = 0  # that the moments stand for
    goes_on: Callable[[], None] | None = None  # to where its cluster was; None: it enters with a round


def started(
    config: RunConfig,
    place: Place,
    command: Train,
    anchor: int,
    state: Slice,
    office: Office,
    encoder: Encoder = in_host_memory,
) -> Returned:
    """`state.weights` hold theta_anchor, and `exp_avg` the outer momentum if the run has one.

    With a `local_state` and no `resume_slice` both are read from there, and `anchor` must be its. `encoder`: of
    contributions.
    """
    weights, exp_avg = array_of(state.weights), array_of(state.exp_avg)
    momentum = exp_avg.copy() if config.rounds.outer_momentum else None
    if command.local_state is None:
        exp_avg[:] = 0
        return Returned(RoundMember(config.rounds, place, weights, anchor, office, momentum, encoder))
    with opened(command.local_state) as kept:
        if command.resume_slice is None:
            kept.read("anchor", weights)
            if momentum is not None:
                kept.read("momentum", momentum)
        member = RoundMember(config.rounds, place, weights, anchor, office, momentum, encoder)
        if command.resume_slice is None:
            kept.read("weights", weights)
        else:
            kept.add_difference(weights)
        try:
            member.restore(kept.info.former, kept.waiting(), command.missed)
        except PartInvalid as error:
            raise CheckpointInvalid(f"{command.local_state} does not fit this run: {error}") from error
        logger.info("local state taken up kept_at=%d anchor=%d steps=%d", kept.info.anchor, anchor, kept.info.steps)
        if config.optimizer.name == "onebit_adam":
            # Its phase is the cluster's, and what else it keeps is not in the file: moments as a newcomer's.
            exp_avg[:] = 0
            return Returned(member)
        kept.read("exp_avg", exp_avg)
        kept.read("exp_avg_sq", array_of(state.exp_avg_sq))
        return Returned(member, kept.info.optimizer_steps)


def restored(
    config: RunConfig,
    place: Place,
    files: Files,
    contributed: int,
    state: Slice,
    office: Office,
    encoder: Encoder = in_host_memory,
) -> Returned:
    """As the members of a former plan stood at a restore point, of which our slice has its part.

    `contributed`: see `RoundMember.go_back`. All members do this together, so 1-bit Adam goes on where it was: the
    owners have its momentum, and its residuals, which are in no file, begin at zero (see `zero.onebit`).
    """
    weights, exp_avg = array_of(state.weights), array_of(state.exp_avg)
    info = files[Rank(0)].info
    if info.run_id != place.run_id or info.config_digest != config_digest(config) or info.standing is None:
        raise CheckpointInvalid("the restore point is not one of this run")
    momentum = np.empty_like(weights) if info.momentum else None
    reshard.arrays(files, place.layout, place.rank, {"anchor": weights})
    if momentum is not None:
        reshard.arrays(files, place.layout, place.rank, {"momentum": momentum})
    member = RoundMember(config.rounds, place, weights, info.anchor, office, momentum, encoder)
    own = {"weights": weights, "exp_avg": exp_avg, "exp_avg_sq": array_of(state.exp_avg_sq)}
    reshard.arrays(files, place.layout, place.rank, own)
    waiting, standing = reshard.waiting(files, place.layout, place.rank), info.standing
    return Returned(member, info.optimizer_steps, lambda: member.go_back(standing, waiting, contributed))


def anchor_of(command: Train) -> int | None:
    """The anchor that a kept state starts the engine from; None when the plan says it."""
    if command.local_state is None or command.resume_slice is not None:
        return None
    with opened(command.local_state) as kept:
        return kept.info.anchor


class LocalState:
    """See `train.rounds.Keeper`. A disk that takes no state stops nobody: it is said, and training goes on."""

    def __init__(
        self,
        path: Path | None,
        config: RunConfig,
        place: Place,
        member: RoundMember,
        zero: Zero3,
        report: Callable[[Message], None],
        points: Points | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`path`: None where nothing is kept over a restart. `points`: of a cluster of several."""
        self._path = path
        self._config = config
        self._place = place
        self._member = member
        self._zero = zero
        self._report = report
        self._points = points
        if points is not None:
            member.may_keep = lambda: points.may_keep
        self._clock = clock
        self._kept_anchor = member.anchor
        self._kept_at_s = clock()

    def entered(self) -> None:
        """What was kept is contributed under our name from now on: whoever took it up once more would double it."""
        self._kept_anchor = self._member.anchor
        self._forget()

    def stepped(self) -> None:
        if self._points is None:
            return
        self._points.stepped()
        if self._member.keeps:
            info = self._info(final=False)
            standing = self._member.standing(self._points.epoch, self._zero.step)
            waiting, slices = self._arrays(final=False)
            self._points.take(info.model_copy(update={"standing": standing}), slices, waiting)

    def reached(self) -> None:
        if self._path is None:
            return
        anchor, every = self._member.anchor, self._config.rounds.checkpoint_every
        info = self._info(final=False)
        if is_due(anchor, self._kept_anchor, every, self._clock() - self._kept_at_s, size_of(info)):
            self._save(info)

    def left(self, *, complete: bool) -> None:
        if complete:
            self._forget()
        else:
            self._save(self._info(final=True))

    def _info(self, *, final: bool) -> StateInfo:
        former, waiting, anchor = self._member.state(final=final)
        return StateInfo(
            run_id=self._place.run_id,
            config_digest=config_digest(self._config),
            units=self._place.layout.units,
            shares=self._place.layout.shares,
            rank=self._place.rank,
            cluster=former.cluster,
            sent_as=former.sent_as,
            anchor=former.anchor,
            final=final,
            steps=self._member.progress.steps,
            tokens=self._member.progress.tokens,
            optimizer_steps=self._zero.optimizer_steps,
            momentum=anchor.momentum is not None,
            spans=kept_spans(waiting),
        )

    def _arrays(self, *, final: bool) -> tuple[list[Waiting], dict[str, Floats]]:
        """For `write_state`."""
        _, waiting, anchor = self._member.state(final=final)
        slices: dict[str, Floats] = {"anchor": anchor.values}
        for name in ("weights", "exp_avg", "exp_avg_sq"):
            slices[name] = array_of(getattr(self._zero.slice, name))
        if anchor.momentum is not None:
            slices["momentum"] = anchor.momentum
        return list(waiting.values()), slices

    def _save(self, info: StateInfo) -> None:
        if self._path is None:
            return
        waiting, slices = self._arrays(final=info.final)
        try:
            with storing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            written = write_state(self._path, info, slices, waiting)
        except StorageFailed as error:
            logger.warning("local state not kept anchor=%d reason=%s", info.anchor, error)
            return
        finally:
            self._kept_anchor, self._kept_at_s = info.anchor, self._clock()
        logger.info("local state kept anchor=%d size_bytes=%d", info.anchor, written.size_bytes)
        self._report(StateSaved(path=self._path, anchor=info.anchor, size_bytes=written.size_bytes, final=info.final))

    def _forget(self) -> None:
        """For good, also through a power cut."""
        if self._path is None:
            return
        with storing(self._path):
            if self._path.exists():
                self._path.unlink()
                sync_folder(self._path.parent)
