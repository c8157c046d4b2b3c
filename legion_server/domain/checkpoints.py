"""What is stored of each checkpoint, which ones may go, and what a run can resume from. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from legion.errors import CheckpointInvalid
from legion.ids import Rank, RunId
from legion.layout import Layout
from legion.messages import CheckpointManifest, CheckpointView, Plan, SliceRef
from legion_server.domain.happenings import Happening

# safetensors: three fp32 values an element (weight and two moments), doubled for what a later format may add.
MOST_BYTES_PER_ELEMENT = 24
HEADER_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`manifest.slices` lists what was uploaded, by rank; `assembled` says that the folder is published."""

    manifest: CheckpointManifest
    assembled: bool = False
    weights_digest: str | None = None
    files: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def complete(self) -> bool:
        return len(self.manifest.slices) == len(self.manifest.shares)

    @property
    def folder_name(self) -> str:
        """Of its slices: a resumed run may write the same step again, for other members."""
        return f"step-{self.manifest.step:08d}-epoch-{self.manifest.epoch}"

    def slice(self, rank: int) -> SliceRef | None:
        return next((ref for ref in self.manifest.slices if ref.rank == rank), None)

    def view(self) -> CheckpointView:
        return CheckpointView(
            step=self.step,
            complete=self.complete,
            assembled=self.assembled,
            weights_digest=self.weights_digest,
            manifest=self.manifest,
            files=self.files,
        )


def begin(run_id: RunId, plan: Plan, step: int, tokens: int) -> Checkpoint:
    """The checkpoint after `step` steps of this plan, with no slice yet."""
    return Checkpoint(
        CheckpointManifest(
            run_id=run_id,
            epoch=plan.epoch,
            step=step,
            tokens=tokens,
            shares=tuple(member.share for member in plan.members),
            shape=plan.shape,
            config_digest=plan.config_digest,
        )
    )


def with_slice(checkpoint: Checkpoint, ref: SliceRef, tokens: int) -> Checkpoint:
    """CheckpointInvalid when it contradicts what is there: other bytes for a rank, or another count of tokens."""
    known = checkpoint.slice(ref.rank)
    if known is not None and known != ref:
        raise CheckpointInvalid(
            f"checkpoint {checkpoint.step} already has another slice of rank {ref.rank}: {known.sha256[:12]}"
        )
    if tokens != checkpoint.manifest.tokens:
        raise CheckpointInvalid(
            f"rank {ref.rank} counts {tokens} tokens at step {checkpoint.step}, the others {checkpoint.manifest.tokens}"
        )
    slices = sorted({r.rank: r for r in (*checkpoint.manifest.slices, ref)}.values(), key=lambda r: r.rank)
    return replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"slices": tuple(slices)}))


def most_bytes(plan: Plan, rank: Rank) -> int:
    """The largest slice file that this rank may upload."""
    layout = Layout(plan.shape.sizes, tuple(member.share for member in plan.members))
    return layout.owned(rank) * MOST_BYTES_PER_ELEMENT + HEADER_BYTES


def newest_complete(checkpoints: Mapping[int, Checkpoint]) -> Checkpoint | None:
    """What a run resumes from."""
    return max((c for c in checkpoints.values() if c.complete), key=lambda c: c.step, default=None)


def superfluous(checkpoints: Iterable[Checkpoint], keep: int, *, assembling: bool) -> list[Checkpoint]:
    """Those that may be deleted: all but the `keep` newest finished ones and what is newer than them."""
    ordered = sorted(checkpoints, key=lambda c: c.step, reverse=True)
    finished = [c for c in ordered if (c.assembled if assembling else c.complete)]
    if len(finished) < keep:
        return []
    oldest_kept = finished[keep - 1].step
    return [c for c in ordered if c.step < oldest_kept]


def announced(checkpoint: Checkpoint) -> Happening:
    """What is told of it."""
    return Happening(
        "checkpoint",
        {
            "step": checkpoint.step,
            "complete": checkpoint.complete,
            "assembled": checkpoint.assembled,
            "weights_digest": checkpoint.weights_digest,
        },
    )
