"""Hub data: found, divided, streamed and packed through the very requests that go to huggingface.co."""

import gzip
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from legion.config import DataConfig, TokenizerConfig
from legion.data import planning
from legion.data.blocks import open_blocks
from legion.data.leases import read_texts
from legion.data.manifest import sealed
from legion.data.prepare import Prepared, prepare
from legion.data.stream import NO_LABEL, cut
from legion.data.streamed import LeaseReader
from legion.data.tokenizer import BYTES
from legion.errors import DataError, DatasetEmpty, DatasetMissing, FingerprintMismatch, Unavailable
from legion.messages import Lease
from tests.core.data.fake_hub import COMMIT, CONVERTED, FakeHub

ROWS = [f"row {n:04} " + "é" * (n % 97) + " end" for n in range(1200)]


def parquet(rows: Sequence[str | None], *, group: int = 100, column: str = "text") -> bytes:
    out = io.BytesIO()
    junk = [bytes([n % 251]) * 500 for n in range(len(rows))]
    pq.write_table(pa.table({"junk": junk, column: rows}), out, row_group_size=group, use_dictionary=False)
    return out.getvalue()


def json_lines(rows: Sequence[str]) -> bytes:
    return b"".join(json.dumps({"meta": n, "text": row}).encode() + b"\n" for n, row in enumerate(rows))


def config(name: str = "o/n", **changes: object) -> DataConfig:
    return DataConfig.model_validate({"source": "huggingface", "name": name, "seq_len": 32} | changes)


def streamed(out: Path, chosen: DataConfig | None = None, seed: int = 0) -> Prepared:
    return prepare(chosen or config(), seed=seed, folder=out, pack_below_bytes=0)


def texts_of(prepared: Prepared, folder: Path, part: str) -> list[str]:
    shards = prepared.manifest.train if part == "train" else prepared.manifest.validation
    content = b"".join((folder / shard.sha256).read_bytes() for shard in shards)
    documents: list[list[int]] = [[]]
    for token in np.frombuffer(content, "<u2").tolist():
        if token == 256:
            documents.append([])
        else:
            documents[-1].append(token)
    return [bytes(document).decode() for document in documents[:-1]]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_small_dataset_is_packed_whole(tmp_path: Path, hub: FakeHub, kind: str) -> None:
    content = {
        "parquet": parquet(ROWS),
        "jsonl": json_lines(ROWS),
        "jsonl.gz": gzip.compress(json_lines(ROWS)),
        "jsonl.zst": pa.compress(json_lines(ROWS), codec="zstd", asbytes=True),
    }[kind]
    hub.add("datasets/o/n", {f"data/train-0.{kind}": content})
    done = prepare(config(), seed=0, folder=tmp_path)
    train, validation = texts_of(done, tmp_path, "train"), texts_of(done, tmp_path, "validation")
    assert done.manifest.kind == "packed"
    assert done.data.revision == COMMIT
    assert len(validation) == 60
    assert sorted(train + validation) == sorted(ROWS)
    assert prepare(done.data, seed=0, folder=tmp_path) == done


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_leases_and_held_out_text_are_the_whole_dataset(
    tmp_path: Path, hub: FakeHub, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "RANGE_BYTES", 9973)
    monkeypatch.setattr(planning, "SAMPLE_TOKENS", 5000)
    hub.add("datasets/o/n", {f"train.{kind}": parquet(ROWS) if kind == "parquet" else json_lines(ROWS)})
    done = streamed(tmp_path, config(validation_fraction=0.2))
    leases = done.manifest.leases
    assert done.manifest.kind == "streamed"
    assert done.manifest.train == ()
    assert len(leases) >= 5
    # Read without the limit of their blocks, so that nothing but the division decides what is read.
    whole = sealed(
        **done.manifest.model_dump(exclude={"fingerprint", "leases"}),
        leases=[lease.model_copy(update={"blocks": 10_000}) for lease in leases],
    )
    reader = LeaseReader(whole, BYTES)
    train = [
        text for n in range(len(leases)) for text in BYTES.decode(reader.tokens(n).tolist()).split("<|endoftext|>")[:-1]
    ]
    kept = texts_of(done, tmp_path, "validation")
    assert not set(train) & set(kept)
    missing = set(ROWS) - set(train) - set(kept)
    # What the last held-out lease holds beyond the 5,000 tokens that were asked for is used by neither.
    assert sum(shard.tokens for shard in done.manifest.validation) >= 5000
    assert len(missing) < (100 if kind == "parquet" else 9973 / 20)
    assert len(train) + len(kept) + len(missing) == len(ROWS)


def test_every_block_is_what_reading_the_lease_alone_gives_and_none_is_lost_or_doubled(
    tmp_path: Path, hub: FakeHub
) -> None:
    hub.add("datasets/o/n", {"train.parquet": parquet(ROWS)})
    done = streamed(tmp_path)
    blocks = open_blocks(done.manifest, tmp_path, seed=3)
    reader = LeaseReader(done.manifest, BYTES)
    expected = []
    for number, lease in enumerate(done.manifest.leases):
        tokens = reader.tokens(number).astype(np.int64)
        expected += [tokens[i * 32 : i * 32 + 33].tolist() for i in range(lease.blocks) if i * 32 + 1 < tokens.size]
    assert sum(lease.blocks for lease in done.manifest.leases) == blocks.epoch_blocks
    for epoch in (0, 1):
        order = range(epoch * blocks.epoch_blocks, (epoch + 1) * blocks.epoch_blocks)
        found = []
        for number in order:
            block = blocks.train(number)
            kept = block.labels != NO_LABEL
            found.append([*block.inputs[kept].tolist(), int(block.labels[kept][-1])])
        assert sorted(found) == sorted(expected)
    assert blocks.validation_count > 0


def test_the_estimate_of_blocks_is_close(tmp_path: Path, hub: FakeHub) -> None:
    hub.add("datasets/o/n", {"train.parquet": parquet(ROWS)})
    done = streamed(tmp_path)
    tokens = sum(len(row.encode()) + 1 for row in ROWS) - sum(s.tokens for s in done.manifest.validation)
    assert sum(lease.blocks for lease in done.manifest.leases) * 32 == pytest.approx(tokens, rel=0.05)


def test_a_lease_that_holds_less_than_promised_repeats_itself(tmp_path: Path, hub: FakeHub) -> None:
    hub.add("datasets/o/n", {"train.parquet": parquet(ROWS)})
    done = streamed(tmp_path)
    lease = done.manifest.leases[0].model_copy(update={"blocks": 1000})
    promised = sealed(**done.manifest.model_dump(exclude={"fingerprint", "leases"}), leases=(lease,))
    tokens = LeaseReader(promised, BYTES).tokens(0)
    real = -(-(tokens.size - 1) // 32)
    assert real < 500
    expected = Counter(cut(tokens[i % real * 32 :], 32, 256).inputs.tobytes() for i in range(1000))
    blocks = open_blocks(promised, tmp_path, seed=0)
    assert blocks.epoch_blocks == 1000
    assert Counter(blocks.train(n).inputs.tobytes() for n in range(1000)) == expected


def test_only_the_column_of_the_row_group_travels(tmp_path: Path, hub: FakeHub) -> None:
    rng = np.random.default_rng(0)
    rows = [bytes(rng.integers(97, 123, 4000, dtype=np.uint8)).decode() for _ in range(400)]
    content = parquet(rows, group=40)
    hub.add("datasets/o/n", {"train.parquet": content})
    done = streamed(tmp_path)
    reader = LeaseReader(done.manifest, BYTES)
    metadata = pq.read_metadata(io.BytesIO(content))
    columns = sum(metadata.row_group(n).column(1).total_compressed_size for n in range(metadata.num_row_groups))
    hub.sent.clear()
    for number in range(len(done.manifest.leases)):
        reader.tokens(number)
    footer = 2 * (1 << 16)  # read once for all row groups
    assert hub.sent_bytes() <= columns + footer


def test_only_the_range_of_json_lines_travels(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "RANGE_BYTES", 100_000)
    hub.add("datasets/o/n", {"train.jsonl": json_lines([row * 20 for row in ROWS])})
    done = streamed(tmp_path, config(validation_fraction=0.01))
    hub.sent.clear()
    LeaseReader(done.manifest, BYTES).tokens(1)
    assert hub.sent_bytes() <= 100_001 + 2 * (1 << 16)


@pytest.mark.parametrize("size", [1, 2, 7, 13, 64, 1000])
@pytest.mark.parametrize("ending", [b"\n", b""])
def test_touching_ranges_give_every_line_once(tmp_path: Path, size: int, ending: bytes) -> None:
    lines = [{"text": "x" * (n % 11) + str(n)} for n in range(40)]
    content = b"\n".join(json.dumps(line).encode() for line in lines) + ending
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    found = []
    for start in range(0, len(content), size):
        lease = Lease(file=str(path), start_byte=start, stop_byte=min(len(content), start + size), blocks=1)
        found += list(read_texts(fsspec.filesystem("file"), lease, "text"))
    assert found == [line["text"] for line in lines]


def test_reading_by_row_groups_is_what_the_datasets_library_streams(tmp_path: Path) -> None:
    rows = [None, "", *ROWS]
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(rows))
    reference = datasets.load_dataset(
        "parquet", data_files=str(path), streaming=True, split="train", cache_dir=str(tmp_path / "cache")
    )
    parts = reference.reshard()
    for group in range(parts.num_shards):
        lease = Lease(file=str(path), row_group=group, blocks=1)
        ours = list(read_texts(fsspec.filesystem("file"), lease, "text"))
        assert ours == [row["text"] for row in parts.shard(num_shards=parts.num_shards, index=group) if row["text"]]


def test_short_names_subsets_splits_and_globs_of_the_readme(tmp_path: Path, hub: FakeHub) -> None:
    readme = """---
configs:
- config_name: default
  data_files: [{split: train, path: "data/*/*"}]
- config_name: sample-10BT
  data_files: [{split: train, path: sample/10BT/*}, {split: test, path: [held/*.parquet]}]
---
# FineWeb
"""
    hub.add(
        "datasets/HuggingFaceFW/fineweb",
        {
            "README.md": readme.encode(),
            "data/CC-MAIN/0.parquet": parquet(["all"] * 3),
            "sample/10BT/0.parquet": parquet(["sampled"] * 3),
            "held/0.parquet": parquet(["held"] * 3),
        },
    )
    cases: tuple[tuple[dict[str, str], str], ...] = (
        ({}, "sampled"),
        ({"subset": "default"}, "all"),
        ({"subset": "sample-10BT", "split": "test"}, "held"),
    )
    for changes, expected in cases:
        done = prepare(config("fineweb", **changes), seed=0, folder=tmp_path)
        assert set(texts_of(done, tmp_path, "train")) == {expected}
    with pytest.raises(DatasetMissing, match=r"no subset 'other'; it has default, sample-10BT"):
        prepare(config("fineweb", subset="other"), seed=0, folder=tmp_path)
    with pytest.raises(DatasetMissing, match="no split 'dev'; it has train"):
        prepare(config("fineweb", split="dev"), seed=0, folder=tmp_path)


def test_without_a_readme_names_decide(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "en").mkdir(parents=True)
    (folder / "en" / "train-00000.jsonl").write_bytes(json_lines(["learn"] * 3))
    (folder / "en" / "test.jsonl").write_bytes(json_lines(["exam"] * 3))
    done = prepare(config(str(folder)), seed=0, folder=tmp_path / "out")
    assert set(texts_of(done, tmp_path / "out", "train")) == {"learn"}
    done = prepare(config(str(folder), subset="en", split="test"), seed=0, folder=tmp_path / "out")
    assert set(texts_of(done, tmp_path / "out", "train")) == {"exam"}
    for changes in ({"subset": "de"}, {"split": "validation"}):
        with pytest.raises(DatasetMissing):
            prepare(config(str(folder), **changes), seed=0, folder=tmp_path / "out")


def test_a_script_dataset_is_read_from_its_parquet_copy(tmp_path: Path, hub: FakeHub) -> None:
    play = "First Citizen:\nSpeak.\n" * 50
    hub.add("datasets/karpathy/tiny_shakespeare", {"tiny_shakespeare.py": b"..."})
    copy = {"default/train/0000.parquet": parquet([play]), "default/test/0000.parquet": parquet(["exam"])}
    hub.add("datasets/karpathy/tiny_shakespeare", copy, CONVERTED)
    done = prepare(config("tiny_shakespeare"), seed=0, folder=tmp_path)
    assert done.data.revision == CONVERTED
    parts = texts_of(done, tmp_path, "train") + texts_of(done, tmp_path, "validation")
    assert "".join(parts) == play
    assert prepare(done.data, seed=0, folder=tmp_path) == done


def test_what_cannot_be_trained_on_is_refused_by_name(tmp_path: Path, hub: FakeHub) -> None:
    hub.add("datasets/o/n", {"train.parquet": parquet(ROWS, column="content")})
    hub.add("datasets/o/bytes", {"train.parquet": parquet(ROWS)})
    hub.add("datasets/o/none", {"notes.txt": b"."})
    hub.add("datasets/o/none", {"notes.txt": b"."}, CONVERTED)
    hub.add("datasets/o/blank", {"train.parquet": parquet([])})
    hub.add("datasets/o/broken", {"train.parquet": b"PAR1 not really PAR1"})
    hub.add("datasets/o/lines", {"train.jsonl": b'{"text": "a"}\nnot json\n'})
    hub.add("datasets/o/other", {"train.jsonl": b'{"content": "a"}\n'})
    cases: tuple[tuple[DataConfig, type[DataError], str], ...] = (
        (config(), DataError, r"no column 'text'; it has junk, content"),
        (config("o/bytes", text_column="junk"), DataError, "holds binary, not text"),
        (config("o/none"), DatasetEmpty, "o/none"),
        (config("o/blank"), DatasetEmpty, "no row"),
        (config("o/broken"), DataError, "not a parquet file"),
        (config("o/lines"), DataError, "not JSON lines"),
        (config("o/other"), DataError, "a line without 'text'; it has content"),
        (config("o/absent"), DatasetMissing, "no dataset o/absent"),
        (config("o/n", revision="v9"), DatasetMissing, "no revision v9"),
        (config("/no/such/folder"), DatasetMissing, "no dataset /no/such/folder"),
    )
    for chosen, kind, match in cases:
        with pytest.raises(kind, match=match):
            prepare(chosen, seed=0, folder=tmp_path)
    (tmp_path / "void").mkdir()
    with pytest.raises(DatasetEmpty, match="no parquet or JSON lines"):
        prepare(config(str(tmp_path / "void")), seed=0, folder=tmp_path)


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "file:///etc/passwd", "http://10.0.0.1/x", "hf://datasets/a::file:///x", "hf://spaces/a/b"]
)
def test_a_worker_reads_nothing_but_hub_datasets(tmp_path: Path, hub: FakeHub, file: str) -> None:
    hub.add("datasets/o/n", {"train.parquet": parquet(ROWS)})
    fields = streamed(tmp_path).manifest.model_dump(exclude={"fingerprint", "leases"})
    hostile = sealed(**fields, leases=(Lease(file=file, start_byte=0, stop_byte=10, blocks=1),))
    with pytest.raises(DataError, match="not a file of a dataset on the hub"):
        open_blocks(hostile, tmp_path, seed=0)


def test_a_file_that_went_away_is_unavailable(tmp_path: Path, hub: FakeHub) -> None:
    hub.add("datasets/o/n", {"train.parquet": parquet(ROWS)})
    done = streamed(tmp_path)
    hub.add("datasets/o/n", {})
    with pytest.raises(Unavailable, match=r"train\.parquet cannot be read from the hub"):
        open_blocks(done.manifest, tmp_path, seed=0).train(0)


def test_a_tokenizer_of_the_hub_is_pinned(tmp_path: Path, hub: FakeHub) -> None:
    hub.add("o/tok", BYTES.files())
    chosen = DataConfig(source="distributed_dummy", tokenizer=TokenizerConfig(kind="huggingface", name="o/tok"))
    done = prepare(chosen, seed=0, folder=tmp_path)
    assert done.data.tokenizer.revision == COMMIT
    assert done.data.tokenizer.sha256 == BYTES.sha256
    hub.add("o/tok", BYTES.files() | {"tokenizer.json": BYTES.blob + b" "})
    with pytest.raises(FingerprintMismatch, match="tokenizer o/tok has SHA-256"):
        prepare(done.data, seed=0, folder=tmp_path)
    for name in ("o/absent", "o/empty"):
        hub.add("o/empty", {"config.json": b"{}"})
        missing = chosen.model_copy(update={"tokenizer": TokenizerConfig(kind="huggingface", name=name)})
        with pytest.raises(DatasetMissing, match=name):
            prepare(missing, seed=0, folder=tmp_path)
