"""Where a member of a cluster stands between two steps, beside its weights: for restore points.

All members of a cluster stand at the same place, because every turn they take follows from plans, the log and verdicts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, Field

from legion.ids import Epoch, Step
from legion.layout import Bounds
from legion.rounds import Blocks

Count = Annotated[int, Field(ge=0, le=2**62)]


@dataclass(slots=True)
class Progress:
    """Steps that no contribution stands for yet."""

    steps: int = 0
    tokens: int = 0
    blocks: list[Blocks] = field(default_factory=list)  # trained on; the last grows
    lease: Blocks | None = None
    next_block: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """What a contribution stands for."""

    steps: int = 0
    tokens: int = 0
    blocks: tuple[Blocks, ...] = ()


class Owed(BaseModel, frozen=True, extra="forbid"):
    """What a contribution to the span [start, stop) named that no record has."""

    start: Count
    stop: Count
    steps: Count
    tokens: Count
    blocks: tuple[Blocks, ...]

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.start, self.stop)


class Standing(BaseModel, frozen=True, extra="forbid"):
    """After `step` of the plan of `epoch`, as the cluster counts its steps."""

    epoch: Annotated[Epoch, Field(ge=0)]
    step: Annotated[Step, Field(ge=0)]
    contributed: Annotated[int, Field(ge=-1)]  # the newest round that a contribution was made for; -1: none
    steps: Count  # since then
    tokens: Count
    blocks: tuple[Blocks, ...]  # trained on since then
    lease: Blocks | None
    next_block: Count
    owed: tuple[Owed, ...]

    @property
    def progress(self) -> Progress:
        return Progress(self.steps, self.tokens, list(self.blocks), self.lease, self.next_block)

    @property
    def accounts(self) -> dict[Bounds, Account]:
        return {owed.bounds: Account(owed.steps, owed.tokens, owed.blocks) for owed in self.owed}


def standing_of(
    epoch: Epoch, step: Step, contributed: int, progress: Progress, owed: Mapping[Bounds, Account]
) -> Standing:
    return Standing(
        epoch=epoch,
        step=step,
        contributed=contributed,
        steps=progress.steps,
        tokens=progress.tokens,
        blocks=tuple(progress.blocks),
        lease=progress.lease,
        next_block=progress.next_block,
        owed=tuple(
            Owed(start=bounds.start, stop=bounds.stop, steps=had.steps, tokens=had.tokens, blocks=had.blocks)
            for bounds, had in owed.items()
        ),
    )
