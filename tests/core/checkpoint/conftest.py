"""Checkpoints of small real models, cut for any number of members."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from legion.checkpoint.shards import TENSORS, SliceInfo, write_slice
from legion.config import DataConfig, ModelConfig, RunConfig, config_digest
from legion.data.tokenizer import BYTES
from legion.ids import Epoch, Rank, RunId, UnitId
from legion.layout import Layout
from legion.messages import CheckpointManifest, ModelShape, SliceRef
from legion.model import init
from legion.model.build import blueprint

SMALL: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 24, "n_layer": 3, "n_head": 2},
    "gpt_neo": {"hidden_size": 24, "intermediate_size": 40, "num_layers": 3, "num_heads": 2},
    "gpt_neox": SMALL | {"rotary_pct": 0.5},
}
Flat = dict[str, NDArray[np.float32]]


def small_config(architecture: Any = "llama", **settings: Any) -> RunConfig:
    model = ModelConfig(preset=None, architecture=architecture, settings=SIZES.get(architecture, SMALL) | settings)
    return RunConfig(model=model, data=DataConfig(seq_len=16))


def flat_state(config: RunConfig, shape: ModelShape) -> Flat:
    """theta_0 and moments over the whole flat space, each element of them another value."""
    layout = Layout(shape.sizes, (1,))
    weights = np.empty(layout.total, np.float32)
    theta = init.theta_0(config)
    for number, (unit, offset) in enumerate(zip(shape.units, layout.offsets, strict=True)):
        init.fill(weights[offset : offset + layout.padded_unit(UnitId(number))], unit, 0, theta)
    moments = np.arange(1, layout.total + 1, dtype=np.float32)
    return {"weights": weights, "exp_avg": moments, "exp_avg_sq": -moments}


def parts_of(flat: NDArray[np.float32], layout: Layout, rank: Rank) -> list[NDArray[np.float32]]:
    """The rank's slice of a flat space, as its parts in unit order."""
    bounds = [layout.bounds(UnitId(u), rank) for u in range(len(layout.units))]
    return [flat[o + b.start : o + b.stop] for o, b in zip(layout.offsets, bounds, strict=True)]


@dataclass
class Checkpoint:
    """A checkpoint in slices, and what it was cut from."""

    config: RunConfig
    manifest: CheckpointManifest
    slices: dict[int, Path]
    flat: Flat
    tokenizer_json: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.manifest.shape.sizes, self.manifest.shares)

    def info(self, rank: int) -> SliceInfo:
        m = self.manifest
        return SliceInfo(run_id=m.run_id, step=m.step, rank=Rank(rank), epoch=m.epoch, tokens=m.tokens)


Cut = Callable[..., Checkpoint]


@pytest.fixture
def cut(tmp_path: Path) -> Cut:
    """`cut(config, shares)` writes the slices of that many members."""

    def make(config: RunConfig, shares: tuple[int, ...], name: str = "slices") -> Checkpoint:
        folder = tmp_path / name
        folder.mkdir()
        shape = blueprint(config, BYTES.vocab_size).shape
        flat = flat_state(config, shape)
        manifest = CheckpointManifest(
            run_id=RunId("run-test"),
            epoch=Epoch(2),
            step=7,
            tokens=1234,
            shares=shares,
            shape=shape,
            config_digest=config_digest(config),
        )
        tokenizer_json = folder / "tokenizer.json"
        tokenizer_json.write_bytes(BYTES.blob)
        made = Checkpoint(config, manifest, {}, flat, tokenizer_json)
        refs = []
        for rank in made.layout.ranks:
            path = made.slices[rank] = folder / f"rank-{rank}.safetensors"
            parts = {tensor: parts_of(flat[tensor], made.layout, rank) for tensor in TENSORS}
            written = write_slice(path, made.info(rank), parts)
            refs.append(SliceRef(rank=rank, sha256=written.sha256, size_bytes=written.size_bytes))
        made.manifest = manifest.model_copy(update={"slices": tuple(refs)})
        return made

    return make


@pytest.fixture
def parts() -> Callable[[NDArray[np.float32], Layout, Rank], list[NDArray[np.float32]]]:
    return parts_of


@pytest.fixture
def config() -> Callable[..., RunConfig]:
    return small_config
