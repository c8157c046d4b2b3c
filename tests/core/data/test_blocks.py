"""Blocks: every token predicted once an epoch, the same for everyone, and only from files that are what they claim."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.data import packing
from legion.data.blobs import write_blob
from legion.data.blocks import open_blocks
from legion.data.manifest import sealed
from legion.data.packing import shards
from legion.data.stream import NO_LABEL, Block
from legion.data.streamed import LeaseOrder
from legion.errors import DatasetEmpty, FingerprintMismatch
from legion.messages import DatasetManifest, ShardRef


def packed(folder: Path, tokens: int, *, seq_len: int = 8, shard_tokens: int = 1 << 20) -> DatasetManifest:
    """A stream of `tokens` tokens 1000, 1001, ... and its end, in shards; validation is the same stream."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SHARD_BYTES", 2 * shard_tokens)
        pieces = list(shards([np.arange(1000, 1000 + tokens - 1)], end_of_text=7, token_bytes=2))
    refs = tuple(
        ShardRef(sha256=write_blob(folder, piece.tobytes()), size_bytes=piece.nbytes, tokens=piece.size)
        for piece in pieces
    )
    return sealed(
        kind="packed",
        token_bytes=2,
        vocab_size=60000,
        seq_len=seq_len,
        tokenizer_sha256="0" * 64,
        end_of_text=7,
        train=refs,
        validation=refs,
    )


def labels_of(blocks: list[Block]) -> list[int]:
    return [int(label) for block in blocks for label in block.labels if label != NO_LABEL]


@pytest.mark.parametrize("tokens", [2, 3, 8, 9, 10, 16, 17, 18, 100])
@pytest.mark.parametrize("shard_tokens", [1, 5, 8, 1 << 20])
def test_the_labels_of_an_epoch_are_the_stream_without_its_first_token(
    tmp_path: Path, tokens: int, shard_tokens: int
) -> None:
    blocks = open_blocks(packed(tmp_path, tokens, shard_tokens=shard_tokens), tmp_path, seed=0)
    stream = [*range(1000, 1000 + tokens - 1), 7]
    count = -(-(tokens - 1) // 8)
    assert blocks.epoch_blocks == blocks.validation_count == count
    assert labels_of([blocks.validation(n) for n in range(count)]) == stream[1:]
    for epoch in range(3):
        found = [blocks.train(epoch * count + n) for n in range(count)]
        assert Counter(labels_of(found)) == Counter(stream[1:])
        assert sum(block.tokens for block in found) == tokens - 1


def test_inputs_come_before_their_labels_and_the_tail_is_padded(tmp_path: Path) -> None:
    blocks = open_blocks(packed(tmp_path, 13, shard_tokens=5), tmp_path, seed=0)
    first, tail = blocks.validation(0), blocks.validation(1)
    assert first.inputs.tolist() == list(range(1000, 1008))
    assert first.labels.tolist() == list(range(1001, 1009))
    assert tail.inputs.tolist() == [1008, 1009, 1010, 1011, 7, 7, 7, 7]
    assert tail.labels.tolist() == [1009, 1010, 1011, 7, NO_LABEL, NO_LABEL, NO_LABEL, NO_LABEL]
    assert (first.tokens, tail.tokens) == (8, 4)
    assert first.inputs.dtype == first.labels.dtype == np.int64


def test_one_token_is_no_block(tmp_path: Path) -> None:
    with pytest.raises(DatasetEmpty):
        open_blocks(packed(tmp_path, 1), tmp_path, seed=0)


def test_blocks_beyond_the_held_out_text_do_not_exist(tmp_path: Path) -> None:
    blocks = open_blocks(packed(tmp_path, 20), tmp_path, seed=0)
    for index in (-1, blocks.validation_count):
        with pytest.raises(IndexError):
            blocks.validation(index)


def test_epochs_and_seeds_have_their_own_orders(tmp_path: Path) -> None:
    manifest = packed(tmp_path, 801)
    blocks, other = (open_blocks(manifest, tmp_path, seed=seed) for seed in (0, 1))
    orders = [
        [int(source.train(epoch * 100 + n).inputs[0]) for n in range(100)]
        for source, epoch in ((blocks, 0), (blocks, 1), (other, 0))
    ]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_another_process_finds_the_same_blocks(tmp_path: Path) -> None:
    manifest = packed(tmp_path, 500)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    code = f"""
from pathlib import Path
from legion.data.blocks import open_blocks
from legion.messages import DatasetManifest
folder = Path({str(tmp_path)!r})
manifest = DatasetManifest.model_validate_json((folder / "manifest.json").read_text())
blocks = open_blocks(manifest, folder, seed=5)
print([blocks.train(n).inputs.tolist() for n in range(200)])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    blocks = open_blocks(manifest, tmp_path, seed=5)
    assert out.strip() == str([blocks.train(n).inputs.tolist() for n in range(200)])


def test_a_tampered_shard_is_refused_by_name(tmp_path: Path) -> None:
    manifest = packed(tmp_path, 100, shard_tokens=20)
    victim = tmp_path / manifest.train[2].sha256
    content = bytearray(victim.read_bytes())
    content[3] ^= 1
    victim.write_bytes(content)
    with pytest.raises(FingerprintMismatch, match=victim.name):
        open_blocks(manifest, tmp_path, seed=0)
    victim.unlink()
    with pytest.raises(FingerprintMismatch, match=f"{victim.name} is missing"):
        open_blocks(manifest, tmp_path, seed=0)


def test_a_manifest_that_is_not_what_its_fingerprint_says_is_refused(tmp_path: Path) -> None:
    manifest = packed(tmp_path, 100)
    with pytest.raises(FingerprintMismatch, match="claims fingerprint"):
        open_blocks(manifest.model_copy(update={"seq_len": 16}), tmp_path, seed=0)
    lying = manifest.train[0].model_copy(update={"tokens": 99})
    fields = manifest.model_dump(exclude={"fingerprint", "train"})
    with pytest.raises(FingerprintMismatch, match="99 tokens"):
        open_blocks(sealed(**fields, train=(lying,)), tmp_path, seed=0)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=14), st.integers(0, 3))
def test_the_order_of_leases_meets_every_block_once_an_epoch(counts: list[int], seed: int) -> None:
    order = LeaseOrder(np.array(counts, np.int64), seed=seed)
    everything = [(lease, index) for lease, count in enumerate(counts) for index in range(count)]
    for epoch in (0, 1):
        places = [order.place(epoch * order.epoch_blocks + n) for n in range(order.epoch_blocks)]
        assert sorted((place.lease, place.index) for place in places) == everything


def test_consecutive_blocks_mix_leases_but_never_more_than_a_group() -> None:
    order = LeaseOrder(np.full(40, 50, np.int64), seed=0)
    for start in range(0, 2000, 200):
        leases = [order.place(start + n).lease for n in range(200)]
        assert len(set(leases)) == 4
        assert len(set(leases[:20])) > 1
