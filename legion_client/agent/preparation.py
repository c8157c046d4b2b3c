"""What must be on this machine before the engine can work: configuration, data, and on resume our slice."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from legion.checkpoint.resume import build_slice, copies
from legion.checkpoint.shards import TENSORS, SliceInfo
from legion.checkpoint.storage import Written
from legion.config import RunConfig, config_digest
from legion.data.manifest import check_fingerprint
from legion.errors import CheckpointInvalid, ConfigInvalid, FingerprintMismatch, StorageFailed
from legion.ids import Rank, WorkerId
from legion.layout import Layout
from legion.messages import DatasetManifest, Plan
from legion_client.agent.backoff import persistently
from legion_client.agent.cache import Cache
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.progress import Meter, Progress
from legion_client.agent.room import Need, Room

logger = logging.getLogger(__name__)

Told = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration whose data lies in the cache."""

    config: RunConfig
    manifest: DatasetManifest

    @property
    def digest(self) -> str:
        return config_digest(self.config)


async def prepare(
    server: Coordinator, cache: Cache, told: Told = lambda _progress: None, room: Room | None = None
) -> Prepared:
    """Fetches what is missing. FingerprintMismatch when the server's data is not what its configuration says.

    Without `room` for it, that is said there, and this waits until it is cancelled.
    """
    config, manifest = await _agreed(server)
    check_fingerprint(manifest)
    wanted = files_of(manifest)
    if room is not None:
        await _room_for(wanted, cache, room)
    meter, before = Meter("the training data", sum(wanted.values()), told), 0
    for sha256, size_bytes in wanted.items():
        download = meter.counting(server.download(f"/data/{sha256}"), before, size_bytes)
        await persistently(f"data file {sha256[:12]}", cache.fetch, sha256, download)
        before += size_bytes
        meter.at(before)
    logger.info("data ready files=%d source=%s", len(wanted), config.data.source)
    return Prepared(config, manifest)


def files_of(manifest: DatasetManifest) -> dict[str, int]:
    """Sizes by hash; the tokenizer is small, and its size is not known."""
    sizes = {manifest.tokenizer_sha256: 0}
    return sizes | {shard.sha256: shard.size_bytes for shard in (*manifest.train, *manifest.validation)}


async def _room_for(wanted: Mapping[str, int], cache: Cache, room: Room) -> None:
    missing = await asyncio.to_thread(cache.make_room, wanted, room.most_bytes, room.spare_bytes)
    if missing is None:
        room.needs(None)
        return
    need = Need(sum(wanted.values()), missing)
    logger.warning("no room for the run's data size_bytes=%d missing_bytes=%d", need.size_bytes, missing)
    room.needs(need)
    await asyncio.Event().wait()  # the rules make us pause


async def _agreed(server: Coordinator) -> tuple[RunConfig, DatasetManifest]:
    """A configuration and its own manifest: the operator may change both between two questions."""
    config = await persistently("configuration", server.config)
    while True:
        manifest = await persistently("data manifest", server.manifest)
        if config.data.fingerprint == manifest.fingerprint:
            return config, manifest
        before, config = config, await persistently("configuration", server.config)
        if config == before:
            raise FingerprintMismatch(
                f"the configuration names data {str(config.data.fingerprint)[:12]}, "
                f"the server has {manifest.fingerprint[:12]}"
            )


def rank_in(plan: Plan, worker: WorkerId) -> Rank | None:
    """This worker's place in the plan, or None when it is no member."""
    for rank, member in enumerate(plan.members):
        if member.worker_id == worker:
            return Rank(rank)
    return None


def check_plan(plan: Plan, prepared: Prepared) -> None:
    """ConfigInvalid when the plan is of another configuration than the one prepared for."""
    if plan.config_digest != prepared.digest:
        raise ConfigInvalid(
            "the run's configuration changed after this computer had prepared for it",
            hint="Start the client again; it fetches the new configuration.",
        )


def tensors_in(config: RunConfig) -> int:
    """How many of a slice's tensors the checkpoints of a run have; the others are zero, and need no fetching.

    An anchor has no moments; where the run has an outer momentum, that takes the place of the first.
    """
    if not config.in_rounds:
        return len(TENSORS)
    return 2 if config.rounds.outer_momentum else 1


async def resume_slice(
    server: Coordinator,
    plan: Plan,
    rank: Rank,
    folder: Path,
    *,
    tensors: int = len(TENSORS),
    told: Told = lambda _progress: None,
) -> Path:
    """Our slice of the checkpoint the plan starts from, cut from the old members' slices by byte ranges."""
    manifest = await persistently("checkpoint", server.checkpoint, plan.first_step)
    if manifest.step != plan.first_step or manifest.shape != plan.shape:
        raise CheckpointInvalid(f"the server's checkpoint of step {plan.first_step} is of another step or model")
    layout = Layout(plan.shape.sizes, tuple(member.share for member in plan.members))
    info = SliceInfo(
        run_id=manifest.run_id, step=manifest.step, rank=rank, epoch=manifest.epoch, tokens=manifest.tokens
    )
    path = folder / f"resume-{plan.first_step}-{rank}.safetensors"

    parts = copies(manifest, layout, rank, tensors)
    meter = Meter(f"the checkpoint of step {manifest.step}", sum(part.length for part in parts), told)

    async def build() -> Written:
        done = 0

        async def fetch(source: Rank, start: int, stop: int) -> AsyncIterator[bytes]:
            nonlocal done
            async for chunk in server.read_range(f"/checkpoints/{manifest.step}/slices/{source}", start, stop):
                done += len(chunk)
                meter.at(done)
                yield chunk

        return await build_slice(path, info, layout.owned(rank), parts, fetch)

    written = await persistently("slice", build)
    logger.info("slice ready step=%d rank=%d size_bytes=%d", manifest.step, rank, written.size_bytes)
    return path


def empty_folder(folder: Path) -> None:
    """An existing, empty folder; what a killed client left there is of no use to anybody."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise StorageFailed(f"{folder} cannot be used: {error.strerror or error}") from error
