"""A member's local state on disk: what is read is what was written, and anything else is said."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.codec.registry import ALL, SPARSE
from legion.errors import CheckpointInvalid, StorageFailed
from legion.ids import ClusterId, Rank, RunId
from legion.layout import CHUNK, Bounds, Layout
from legion.outer.contribution import Part, Waiting
from legion.outer.state import (
    PIECE,
    WEAR_BYTES_PER_S,
    KeptPart,
    KeptSpan,
    StateInfo,
    header,
    is_due,
    kept_spans,
    opened,
    size_of,
    write_state,
)

UNITS = (5000, 1, 9001)  # six chunks
CODECS = [*ALL, *SPARSE]


def drawn(numel: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(numel).astype(np.float32)


def info_of(waiting: dict[Bounds, Waiting], **changes: Any) -> StateInfo:
    fields: dict[str, Any] = {
        "run_id": RunId("run-test"),
        "config_digest": "1" * 64,
        "units": UNITS,
        "shares": (1, 3),
        "rank": Rank(1),
        "cluster": ClusterId("c7"),
        "sent_as": ClusterId("c3"),
        "anchor": 5,
        "final": True,
        "steps": 3,
        "tokens": 300,
        "optimizer_steps": 83,
        "momentum": False,
        "spans": kept_spans(waiting),
    }
    return StateInfo(**(fields | changes))


def waiting_of(codec: Any = CODECS[0], numel: int = CHUNK) -> dict[Bounds, Waiting]:
    """A span whose part is pending and one that nothing was sent of."""
    part = Part(5, codec, bytes(codec.encode(drawn(numel, 9))), flush=False)
    nothing = np.zeros(0, np.float32)
    return {
        Bounds(0, 3 * CHUNK): Waiting(part, drawn(numel, 7), drawn(numel, 8)),
        Bounds(3 * CHUNK, 6 * CHUNK): Waiting(None, nothing, nothing),
    }


def slices_of(info: StateInfo) -> dict[str, Any]:
    owned = info.layout.owned(info.rank)
    names = ["weights", "exp_avg", "exp_avg_sq", "anchor", *(["momentum"] if info.momentum else [])]
    return {name: drawn(owned, seed) for seed, name in enumerate(names)}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    waiting = waiting_of()
    info = info_of(waiting)
    write_state(tmp_path / "state", info, slices_of(info), list(waiting.values()))
    return tmp_path / "state"


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_what_is_read_is_what_was_written(tmp_path: Path, codec: Any, momentum: bool) -> None:
    waiting = waiting_of(codec)
    info = info_of(waiting, momentum=momentum)
    slices = slices_of(info)
    size_bytes = write_state(tmp_path / "state", info, slices, list(waiting.values())).size_bytes
    assert size_bytes == size_of(info) == (tmp_path / "state").stat().st_size
    with opened(tmp_path / "state") as kept:
        kept.check()
        assert kept.info == info
        for name, values in slices.items():
            out = np.empty_like(values)
            kept.read(name, out)
            assert np.array_equal(out, values)
        found = kept.waiting()
    assert list(found) == list(waiting)
    for bounds, waits in waiting.items():
        assert found[bounds].pending == waits.pending
        assert np.array_equal(found[bounds].buffer, waits.buffer)
        assert np.array_equal(found[bounds].moved, waits.moved)


def test_any_safetensors_reader_opens_it(written: Path) -> None:
    from_file = pytest.importorskip("safetensors.numpy").load_file(written)
    info = info_of(waiting_of())
    assert np.array_equal(from_file["anchor"], slices_of(info)["anchor"])
    pending = waiting_of()[Bounds(0, 3 * CHUNK)].pending
    assert pending is not None
    assert from_file["part.0"].tobytes() == pending.data
    assert from_file["sha256"].nbytes == 32


@pytest.mark.parametrize("chunks", [1, PIECE // CHUNK, PIECE // CHUNK + 1])
def test_what_waited_moves_to_another_anchor(tmp_path: Path, chunks: int) -> None:
    info = info_of({}, units=(chunks * CHUNK,), shares=(1,), rank=Rank(0))
    slices = slices_of(info)
    write_state(tmp_path / "state", info, slices, [])
    theta = drawn(chunks * CHUNK, 77)
    expected = theta + (slices["weights"] - slices["anchor"])
    with opened(tmp_path / "state") as kept:
        kept.add_difference(theta)
        assert np.array_equal(theta, expected)
        with pytest.raises(CheckpointInvalid, match="elements of weights"):
            kept.add_difference(drawn((chunks + 1) * CHUNK))


def test_a_byte_that_the_disk_changed_is_found(written: Path) -> None:
    data = bytearray(written.read_bytes())
    start = len(header(info_of(waiting_of())))
    for place in (start, len(data) // 2, len(data) - 1):
        changed = data.copy()
        changed[place] ^= 1
        written.write_bytes(changed)
        with opened(written) as kept, pytest.raises(CheckpointInvalid, match="damaged"):
            kept.check()


@given(st.data())
def test_a_file_cut_short_or_with_another_header_is_no_state(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    waiting = waiting_of()
    info = info_of(waiting)
    write_state(path, info, slices_of(info), list(waiting.values()))
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.integers(0, len(header(info)) - 1))
        value = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]))
        broken = whole[:place] + bytes([value]) + whole[place + 1 :]
    path.write_bytes(broken)
    with pytest.raises(CheckpointInvalid), opened(path) as kept:
        # A letter of a name may be another letter: then the whole tells.
        kept.check()


@given(st.binary(max_size=200))
def test_anything_else_is_no_state(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    for content in (data, struct.pack("<Q", len(data)) + data):
        path.write_bytes(content)
        with pytest.raises(CheckpointInvalid), opened(path):
            pass


def test_a_header_of_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    info = info_of({}).model_dump()
    info["spans"] = [KeptSpan(start=0, stop=CHUNK, buffer=2**50, moved=0, part=None).model_dump()]
    raw = header(StateInfo.model_validate(info))
    (tmp_path / "state").write_bytes(raw + bytes(1000))
    with pytest.raises(CheckpointInvalid, match="not a whole state"), opened(tmp_path / "state"):
        pass
    text = json.dumps({"__metadata__": {"state": "x" * 5000}}).encode()
    (tmp_path / "state").write_bytes(struct.pack("<Q", 2**62) + text)
    with pytest.raises(CheckpointInvalid, match="local state"), opened(tmp_path / "state"):
        pass


def test_a_part_of_an_unknown_codec_is_said(tmp_path: Path) -> None:
    span = KeptSpan(
        start=0, stop=CHUNK, buffer=0, moved=0, part=KeptPart(round=1, codec=999, size_bytes=3, flush=False)
    )
    info = info_of({}, spans=(span,))
    nothing = np.zeros(0, np.float32)
    write_state(
        tmp_path / "state", info, slices_of(info), [Waiting(Part(1, CODECS[0], b"abc", False), nothing, nothing)]
    )
    with opened(tmp_path / "state") as kept, pytest.raises(CheckpointInvalid, match="999"):
        kept.waiting()


def test_a_disk_that_takes_no_more_leaves_the_old_state(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written.read_bytes()
    waiting = waiting_of()
    info = info_of(waiting, anchor=6)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("legion.checkpoint.storage.os.fsync", full)
    with pytest.raises(StorageFailed, match="No space left"):
        write_state(written, info, slices_of(info), list(waiting.values()))
    assert written.read_bytes() == before
    assert [path.name for path in written.parent.iterdir()] == ["state"]


def test_arrays_of_other_sizes_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    info = info_of({})
    with pytest.raises(ValueError, match="anchor of"):
        write_state(tmp_path / "state", info, slices_of(info) | {"anchor": drawn(CHUNK)}, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("units", "shares", "rank", "same"),
    [
        (UNITS, (1, 3), 1, True),
        (UNITS, (2, 6), 1, True),  # the same ranges by other shares
        (UNITS, (1, 3), 0, False),
        (UNITS, (1,), 0, False),
        ((5000, 1, 9000), (1, 3), 1, False),
    ],
)
def test_a_slice_is_the_same_where_its_elements_are(
    units: tuple[int, ...], shares: tuple[int, ...], rank: int, same: bool
) -> None:
    assert info_of({}).same_slice(Layout(units, shares), Rank(rank)) == same


def test_the_disk_is_written_to_no_more_often_than_is_polite() -> None:
    size_bytes = 16 * 25_000_000  # a model of 25M parameters, held alone
    assert not is_due(9, 0, 10, 1e9, size_bytes)
    assert is_due(10, 0, 10, size_bytes / WEAR_BYTES_PER_S, size_bytes)
    assert not is_due(50, 0, 10, size_bytes / WEAR_BYTES_PER_S - 1, size_bytes)
