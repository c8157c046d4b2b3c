"""Anchors as files, window by window, against the whole space at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from legion import digest
from legion.checkpoint.shards import TENSORS, SliceInfo, read_info, read_slice, size_of
from legion.codec.registry import by_name
from legion.config import RunConfig
from legion.errors import PartInvalid
from legion.ids import Epoch, Rank, RunId, WorkerId
from legion.layout import CHUNK, Bounds, Fragment, spans
from legion.messages import ModelShape, TensorShape, UnitShape
from legion.outer.log import Anchor, OuterStep, apply, blob_of
from legion.rounds import RoundRecord, SpanRecord
from legion_server.service import anchors

SIZES = (5000, 1, 4096, 70_000)
SHAPE = ModelShape(
    units=tuple(UnitShape(name=f"u{n}", tensors=(TensorShape(name=f"w{n}", shape=(n, 1)),)) for n in SIZES)
)
INFO = SliceInfo(run_id=RunId("run-1"), step=4, rank=Rank(0), epoch=Epoch(0), tokens=7)


def config_of(**rounds: Any) -> RunConfig:
    return RunConfig.model_validate({"cluster": {"policy": "solo"}, "rounds": rounds})


def read(path: Path) -> dict[str, np.ndarray]:
    found = {name: np.empty(anchors.total_of(SHAPE), np.float32) for name in TENSORS}
    read_slice(path, {name: [values] for name, values in found.items()})
    return found


def a_round(folder: Path, number: int, count: int) -> tuple[RoundRecord, dict[str, Path]]:
    """Updates of `count` spans, and where they lie."""
    blobs, records, bounds = {}, [], spans(anchors.total_of(SHAPE), count)
    for span, place in enumerate(bounds):
        values = np.random.default_rng((number, span)).normal(size=len(place)).astype(np.float32)
        name = f"{number:032}{span:032}"
        blobs[name] = folder / name
        blobs[name].write_bytes(blob_of(by_name("int8"), values))
        record = {"term": 0, "reducer": WorkerId("a" * 32), "digest": name, "size_bytes": 1, "included": ()}
        records.append(SpanRecord.model_validate(record))
    record = RoundRecord(
        run_id=RunId("run-1"),
        round=number,
        spans=tuple(records),
        bounds=tuple((place.start, place.stop) for place in bounds),
        tokens=1,
        total_tokens=1,
        committed_at=0.0,
    )
    return record, blobs


@pytest.mark.parametrize("window", [CHUNK, 3 * CHUNK, 1024 * CHUNK])
@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("rounds", [{}, {"outer_lr": 0.7}, {"outer_momentum": 0.9}])
def test_windows_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, count: int, rounds: dict[str, Any]
) -> None:
    monkeypatch.setattr(anchors, "WINDOW", window)
    config = config_of(**rounds)
    path = tmp_path / "0"
    leaves = anchors.begin(path, INFO, SHAPE, config)
    start = read(path)
    assert digest.leaves(start["weights"]) == leaves
    outer = OuterStep(config.rounds.outer_lr, config.rounds.outer_momentum)
    momentum = np.zeros_like(start["weights"]) if outer.momentum else None
    whole = Anchor(start["weights"], momentum)
    for number in range(3):
        record, blobs = a_round(tmp_path, number, count)
        target = tmp_path / str(number + 1)
        leaves = anchors.advance(path, target, INFO, record, config, blobs)
        apply(whole, record, lambda b: (Fragment(b, b.start, 0),), lambda d: blobs[d].read_bytes(), outer)  # noqa: B023
        path = target
        assert leaves == digest.leaves(whole.values) == anchors.leaves_of(path)
    found = read(path)
    assert np.array_equal(found["weights"], whole.values)
    assert np.array_equal(found["exp_avg"], np.zeros(1) if momentum is None else momentum) or momentum is None
    assert not found["exp_avg_sq"].any()
    assert read_info(path) == (INFO, anchors.total_of(SHAPE))


def test_an_update_that_does_not_fit_leaves_no_file(tmp_path: Path) -> None:
    anchors.begin(tmp_path / "0", INFO, SHAPE, config_of())
    record, blobs = a_round(tmp_path, 0, 2)
    next(iter(blobs.values())).write_bytes(b"x" * 100)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(PartInvalid):
        anchors.advance(tmp_path / "0", tmp_path / "1", INFO, record, config_of(), blobs)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_moments_are_holes(tmp_path: Path) -> None:
    path = tmp_path / "0"
    anchors.begin(path, INFO, SHAPE, config_of())
    total = anchors.total_of(SHAPE)
    assert path.stat().st_size == size_of(total)
    assert path.stat().st_blocks * 512 < size_of(total) * 2 // 3


def test_only_this_runs_anchors_are_usable(tmp_path: Path) -> None:
    path = tmp_path / "0"
    anchors.begin(path, INFO, SHAPE, config_of())
    assert anchors.usable(path, INFO.model_copy(update={"tokens": 0}), SHAPE)
    assert not anchors.usable(path, INFO.model_copy(update={"step": 5}), SHAPE)
    assert not anchors.usable(path, INFO.model_copy(update={"run_id": RunId("run-2")}), SHAPE)
    assert not anchors.usable(path, INFO, ModelShape(units=SHAPE.units[:1]))
    path.write_bytes(path.read_bytes()[:-1])
    assert not anchors.usable(path, INFO, SHAPE)
    assert not anchors.usable(tmp_path / "missing", INFO, SHAPE)


def test_bounds_outside_a_window_hold_nothing() -> None:
    holds = anchors._within(Bounds(CHUNK, 3 * CHUNK))
    assert holds(Bounds(0, CHUNK)) == ()
    assert holds(Bounds(0, 2 * CHUNK)) == (Fragment(Bounds(CHUNK, 2 * CHUNK), 0, CHUNK),)
