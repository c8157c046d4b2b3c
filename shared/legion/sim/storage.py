"""The run's storage, which follows the log like the assembler: updates, anchors now and then, and their digests."""

import numpy as np

from legion import digest
from legion.codec.api import Floats
from legion.config import RunConfig
from legion.ids import Rank, UnitId
from legion.layout import CHUNK, Bounds, Fragment, Layout
from legion.messages import ModelShape
from legion.model.init import fill, theta_0
from legion.outer import log
from legion.rounds import RoundRecord
from legion.sim.blobs import MemoryBlobs, Shelves

KEPT_ROOTS = 8  # anchors whose digests are kept for those who report late


class Storage:
    """What is uploaded may be fetched; what is committed is applied at once, which takes no time."""

    def __init__(self, config: RunConfig, shape: ModelShape, shelves: Shelves) -> None:
        self._config = config.rounds
        self._layout = Layout(shape.sizes, (1,))
        self._shelves = shelves
        self.blobs = MemoryBlobs(shelves)
        values = start_of(config, shape)
        momentum = np.zeros_like(values) if self._config.outer_momentum else None
        self._anchor = log.Anchor(values, momentum)
        self._outer = log.OuterStep(self._config.outer_lr, self._config.outer_momentum)
        self.round = 0  # of the anchor
        self._leaves = {0: digest.leaves(values)}
        self._kept = {0: self._copy()}

    @property
    def anchor(self) -> Floats:
        """The newest, to be read only."""
        return self._anchor.values

    def follow(self, record: RoundRecord) -> None:
        """theta_{round + 1} of a record whose updates somebody has."""
        log.apply(self._anchor, record, self._whole, self._shelves.read, self._outer)
        self.round = record.round + 1
        self._leaves[self.round] = digest.leaves(self._anchor.values)
        self._leaves.pop(self.round - KEPT_ROOTS, None)
        if self.round % self._config.checkpoint_every == 0:
            self._kept[self.round] = self._copy()

    def _copy(self) -> log.Anchor:
        momentum = self._anchor.momentum
        return log.Anchor(self._anchor.values.copy(), None if momentum is None else momentum.copy())

    def _whole(self, span: Bounds) -> tuple[Fragment, ...]:
        return self._layout.fragments(Rank(0), span)

    def checkpoint(self, complete: int) -> int:
        """The newest anchor that is kept whole, of those whose updates have come: up to `complete`."""
        return max(number for number in self._kept if number <= complete)

    def whole(self, anchor: int) -> log.Anchor:
        """One that is kept."""
        return self._kept[anchor]

    @property
    def root(self) -> str:
        return digest.root(self._leaves[self.round])

    def root_of(self, anchor: int, layout: Layout, rank: Rank) -> str | None:
        """The digest of a member's slice; None when it is not kept any more."""
        leaves = self._leaves.get(anchor)
        if leaves is None:
            return None
        mine = layout.fragments(rank, Bounds(0, layout.total))
        chunks = [n for f in mine for n in range(f.flat.start // CHUNK, f.flat.stop // CHUNK)]
        return digest.root([leaves[n] for n in chunks])


def start_of(config: RunConfig, shape: ModelShape) -> Floats:
    """theta_0 in the flat space."""
    layout, theta = Layout(shape.sizes, (1,)), theta_0(config)
    values = np.zeros(layout.total, np.float32)
    for number, unit in enumerate(shape.units):
        start = layout.offsets[number]
        fill(values[start : start + layout.padded_unit(UnitId(number))], unit, 0, theta)
    return values
