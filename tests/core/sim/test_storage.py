"""What is uploaded, and the digests that members' anchors are compared with."""

import hashlib

import numpy as np
import pytest

from legion import digest
from legion.codec.registry import by_name
from legion.config import RunConfig
from legion.errors import FingerprintMismatch, StorageFailed
from legion.ids import Rank, RunId, UnitId, WorkerId
from legion.layout import Layout, spans
from legion.model.build import blueprint
from legion.outer import log
from legion.rounds import RoundRecord, SpanRecord
from legion.sim.blobs import MemoryBlobs, Shelves
from legion.sim.storage import KEPT_ROOTS, Storage

CONFIG = RunConfig.model_validate(
    {
        "model": {"preset": "tiny", "settings": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}},
        "cluster": {"policy": "solo"},
        "rounds": {"checkpoint_every": 3},
    }
)
SHAPE = blueprint(CONFIG, 257).shape


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_blob_is_there_for_those_who_put_it_as_long_as_one_has_it() -> None:
    shelves = Shelves()
    one, two = MemoryBlobs(shelves), MemoryBlobs(shelves)
    name = name_of(b"update")
    for _ in range(2):
        one.put(name, b"update")
    assert (one.has(name), two.has(name)) == (True, False)
    with pytest.raises(StorageFailed):
        two.read(name)
    two.put(name, b"update")
    one.clear()
    assert bytes(two.read(name)) == b"update"
    two.forget(name)
    two.forget(name)
    assert not two.has(name)
    with pytest.raises(KeyError):
        shelves.read(name)


def test_a_blob_is_what_its_name_says() -> None:
    with pytest.raises(FingerprintMismatch):
        MemoryBlobs(Shelves()).put(name_of(b"update"), b"another")


def record(storage: Storage, shelves: Shelves, number: int) -> RoundRecord:
    """A round with two spans and an update that moves everything."""
    bounds = spans(storage.anchor.size, 2)
    found = []
    for span in bounds:
        blob = log.blob_of(by_name("int8"), np.full(len(span), number + 1, np.float32))
        shelves.add(name_of(blob), blob)
        found.append(SpanRecord(term=0, reducer=WorkerId("w"), digest=name_of(blob), size_bytes=len(blob), included=()))
    return RoundRecord(
        run_id=RunId("run"),
        round=number,
        spans=tuple(found),
        bounds=tuple((span.start, span.stop) for span in bounds),
        tokens=0,
        total_tokens=0,
        committed_at=0.0,
    )


def test_anchors_follow_the_log_and_some_are_kept() -> None:
    shelves = Shelves()
    storage = Storage(CONFIG, SHAPE, shelves)
    start = storage.anchor.copy()
    for number in range(7):
        storage.follow(record(storage, shelves, number))
    assert storage.round == 7
    np.testing.assert_allclose(storage.anchor, start - sum(range(1, 8)), atol=1e-4)
    assert [storage.checkpoint(complete) for complete in (0, 2, 3, 5, 7)] == [0, 0, 3, 3, 6]
    np.testing.assert_allclose(storage.whole(3).values, start - 6, atol=1e-4)
    np.testing.assert_array_equal(storage.whole(0).values, start)


@pytest.mark.parametrize("shares", [(1,), (1, 1), (1, 3, 2)])
def test_the_digest_of_a_slice_is_the_members_own(shares: tuple[int, ...]) -> None:
    shelves = Shelves()
    storage = Storage(CONFIG, SHAPE, shelves)
    storage.follow(record(storage, shelves, 0))
    layout = Layout(SHAPE.sizes, shares)
    for rank in layout.ranks:
        parts = [(offset, layout.bounds(UnitId(unit), rank)) for unit, offset in enumerate(layout.offsets)]
        slice_ = np.concatenate([storage.anchor[offset + b.start : offset + b.stop] for offset, b in parts])
        assert storage.root_of(1, layout, rank) == digest.root(digest.leaves(slice_))
    assert storage.root == digest.root(digest.leaves(storage.anchor))


def test_old_digests_go() -> None:
    shelves = Shelves()
    storage = Storage(CONFIG, SHAPE, shelves)
    for number in range(KEPT_ROOTS):
        storage.follow(record(storage, shelves, number))
    layout = Layout(SHAPE.sizes, (1,))
    assert storage.root_of(0, layout, Rank(0)) is None
    assert storage.root_of(1, layout, Rank(0)) is not None
