"""A slice is a safetensors file whose every byte follows from the layout; anything else is refused unread."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from legion.checkpoint.shards import (
    HEADER_BYTES,
    TENSORS,
    SliceInfo,
    byte_offset,
    header,
    read_info,
    read_slice,
    size_of,
    write_slice,
)
from legion.errors import CheckpointInvalid, StorageFailed
from legion.ids import Epoch, Rank, RunId

INFO = SliceInfo(run_id=RunId("run-1"), step=5, rank=Rank(2), epoch=Epoch(3), tokens=10**15)
Parts = dict[str, list[NDArray[np.float32]]]


def parts(*sizes: int) -> Parts:
    drawn = np.random.default_rng(len(sizes)).standard_normal((len(TENSORS), sum(sizes))).astype(np.float32)
    edges = np.cumsum(sizes)[:-1]
    return {name: np.split(row, edges) for name, row in zip(TENSORS, drawn, strict=True)}


def empty(*sizes: int) -> Parts:
    return {name: [np.full(size, np.nan, np.float32) for size in sizes] for name in TENSORS}


@pytest.mark.parametrize("sizes", [(0,), (1,), (4096, 0, 8192), (0, 0), (5, 300_001)])
def test_what_is_written_is_read(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    given, path = parts(*sizes), tmp_path / "slice"
    written = write_slice(path, INFO, given)
    assert written.size_bytes == path.stat().st_size == size_of(sum(sizes))
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_info(path) == (INFO, sum(sizes))

    back = empty(*reversed(sizes))  # cut in another way
    assert read_slice(path, back) == INFO
    for name in TENSORS:
        assert np.array_equal(np.concatenate(back[name]), np.concatenate(given[name]))


def test_other_tools_read_it(tmp_path: Path) -> None:
    given, path = parts(7, 4096), tmp_path / "slice"
    write_slice(path, INFO, given)
    loaded = load_file(path)
    assert set(loaded) == set(TENSORS)
    for name in TENSORS:
        assert np.array_equal(loaded[name], np.concatenate(given[name]))
    with safe_open(path, "np") as file:
        assert file.metadata() == {"run_id": "run-1", "step": "5", "rank": "2", "epoch": "3", "tokens": str(10**15)}


def test_elements_lie_where_byte_offset_says(tmp_path: Path) -> None:
    given, path = parts(3, 5), tmp_path / "slice"
    write_slice(path, INFO, given)
    raw = path.read_bytes()
    for index, name in enumerate(TENSORS):
        for element, value in enumerate(np.concatenate(given[name])):
            assert struct.unpack_from("<f", raw, byte_offset(index, 8, element)) == (value,)


def test_nothing_is_copied(tmp_path: Path) -> None:
    class Watched(np.ndarray):  # type: ignore[type-arg]
        """Fails when somebody asks for a copy."""

        def copy(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("copied")

    base = np.arange(8192, dtype=np.float32)
    watched = {name: [base.view(Watched)] for name in TENSORS}
    write_slice(tmp_path / "slice", INFO, watched)
    assert load_file(tmp_path / "slice")["weights"][-1] == 8191


def test_tensors_of_different_sizes_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    uneven = parts(4) | {"exp_avg": [np.zeros(3, np.float32)]}
    with pytest.raises(ValueError, match="one size"):
        write_slice(tmp_path / "slice", INFO, uneven)
    doubles: Any = {name: [np.zeros(4)] for name in TENSORS}
    with pytest.raises(ValueError, match="float32"):
        write_slice(tmp_path / "slice", INFO, doubles)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        write_slice(tmp_path / "no" / "slice", INFO, parts(4))
    with pytest.raises(CheckpointInvalid, match="No such file"):
        read_info(tmp_path / "no" / "slice")


def changed(table: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def change(raw: bytes) -> bytes:
        body = json.loads(raw[8:HEADER_BYTES])
        table(body)
        text = json.dumps(body, separators=(",", ":")).encode().ljust(HEADER_BYTES - 8)
        return raw[:8] + text + raw[HEADER_BYTES:]

    return change


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "header only": lambda raw: raw[:HEADER_BYTES],
    "cut in the header": lambda raw: raw[:100],
    "one byte short": lambda raw: raw[:-1],
    "one element short": lambda raw: raw[:-12],
    "one byte long": lambda raw: raw + b"\0",
    "one element long": lambda raw: raw + bytes(12),
    "not JSON": lambda raw: raw[:8] + b"x" * (HEADER_BYTES - 8) + raw[HEADER_BYTES:],
    "deep JSON": lambda raw: raw[:8] + b"[" * (HEADER_BYTES - 8) + raw[HEADER_BYTES:],
    "a list": lambda raw: raw[:8] + b"[]".ljust(HEADER_BYTES - 8) + raw[HEADER_BYTES:],
    "header length": lambda raw: struct.pack("<Q", 1 << 60) + raw[8:],
    "no metadata": changed(lambda t: t.pop("__metadata__")),
    "metadata is text": changed(lambda t: t.update(__metadata__="x")),
    "no step": changed(lambda t: t["__metadata__"].pop("step")),
    "negative step": changed(lambda t: t["__metadata__"].update(step="-1")),
    "step is a word": changed(lambda t: t["__metadata__"].update(step="five")),
    "more metadata": changed(lambda t: t["__metadata__"].update(path="/etc")),
    "wrong dtype": changed(lambda t: t["weights"].update(dtype="F16")),
    "wrong shape": changed(lambda t: t["weights"].update(shape=[2, 4])),
    "huge shape": changed(lambda t: t["weights"].update(shape=[1 << 62])),
    "overlap": changed(lambda t: t["exp_avg"].update(data_offsets=[0, 32])),
    "missing tensor": changed(lambda t: t.pop("exp_avg_sq")),
    "one more tensor": changed(lambda t: t.update(more=t["weights"])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_slice_is_refused_before_anything_is_read(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "slice"
    write_slice(path, INFO, parts(8))
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    target = empty(8)
    with pytest.raises(CheckpointInvalid, match=str(path)):
        read_slice(path, target)
    assert all(np.isnan(part).all() for name in TENSORS for part in target[name])


@given(st.binary(max_size=HEADER_BYTES + 64), st.booleans())
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes, as_tail: bool) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "slice"
    path.write_bytes(header(INFO, 1)[: HEADER_BYTES - len(data)] + data if as_tail else data)
    with pytest.raises(CheckpointInvalid):
        read_info(path)


def test_a_slice_of_another_size_than_the_plan_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "slice"
    write_slice(path, INFO, parts(8))
    with pytest.raises(CheckpointInvalid, match="holds 8 elements of weights, the plan asks for 9"):
        read_slice(path, empty(4, 5))


def test_a_safetensors_file_of_another_program(tmp_path: Path) -> None:
    save_file({name: np.zeros(8, np.float32) for name in TENSORS}, tmp_path / "slice")
    with pytest.raises(CheckpointInvalid):
        read_info(tmp_path / "slice")


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    from legion.checkpoint.shards import read_exactly

    (tmp_path / "file").write_bytes(bytes(10))
    with (tmp_path / "file").open("rb", buffering=0) as file, pytest.raises(CheckpointInvalid, match="6 bytes early"):
        read_exactly(file, np.zeros(4, np.float32))
