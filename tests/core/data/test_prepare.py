"""Preparation: what lies in the folder afterwards, what is held out, and what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from legion.config import DataConfig
from legion.data.blocks import open_blocks
from legion.data.manifest import fingerprint_of
from legion.data.prepare import prepare
from legion.data.tokenizer import BYTES
from legion.errors import DataError, DatasetEmpty, DatasetMissing, FingerprintMismatch, StorageFailed


def write(folder: Path, **texts: str) -> DataConfig:
    for name, content in texts.items():
        (folder / f"{name}.txt").write_text(content, "utf-8")
    return DataConfig(source="text", paths=(str(folder),), seq_len=8, validation_fraction=0.25)


def stream_of(folder: Path, shas: list[str]) -> bytes:
    tokens = np.concatenate([np.frombuffer((folder / sha).read_bytes(), "<u2") for sha in shas])
    return bytes(t if t < 256 else 0 for t in tokens.tolist())


def test_every_document_lies_in_exactly_one_of_the_two_streams(tmp_path: Path) -> None:
    texts = {f"file{n}": f"text {n} ✓" for n in range(10)}
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    done = prepare(write(source, **texts), seed=1, folder=out)
    streams = [
        stream_of(out, [s.sha256 for s in part]).split(b"\0")[:-1]
        for part in (done.manifest.train, done.manifest.validation)
    ]
    assert len(streams[1]) == 2  # round(10 x 0.25), and Python rounds halves to even
    assert sorted(streams[0] + streams[1]) == sorted(t.encode() for t in texts.values())


def test_the_same_input_gives_the_same_files_and_another_seed_another_split(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    config = write(source, **{f"file{n}": f"text {n}" for n in range(20)})
    first, again, other = (prepare(config, seed=s, folder=tmp_path / str(i)) for i, s in enumerate((1, 1, 2)))
    assert first == again
    assert {p.name: p.read_bytes() for p in (tmp_path / "0").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "1").iterdir()
    }
    assert other.manifest.validation != first.manifest.validation


def test_the_configuration_comes_back_pinned_and_is_checked_the_next_time(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    config = write(source, a="one", b="two", c="three")
    done = prepare(config, seed=0, folder=tmp_path / "out")
    assert done.data.fingerprint == done.manifest.fingerprint == fingerprint_of(done.manifest)
    assert done.data.tokenizer.sha256 == BYTES.sha256
    assert (tmp_path / "out" / BYTES.sha256).read_bytes() == BYTES.blob
    assert prepare(done.data, seed=0, folder=tmp_path / "out") == done
    (source / "a.txt").write_text("changed")
    with pytest.raises(FingerprintMismatch, match="was started with"):
        prepare(done.data, seed=0, folder=tmp_path / "out")


@pytest.mark.parametrize("count", [2, 3, 7])
def test_with_two_files_or_more_some_but_not_all_are_held_out(tmp_path: Path, count: int) -> None:
    source = tmp_path / "in"
    source.mkdir()
    config = write(source, **{f"file{n}": "some text" for n in range(count)})
    for fraction in (0.01, 0.5):
        done = prepare(config.model_copy(update={"validation_fraction": fraction}), seed=0, folder=tmp_path)
        assert done.manifest.train
        assert done.manifest.validation


def test_one_file_is_cut_at_a_line(tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("a\n" * 75 + "b\n" * 25)
    config = DataConfig(source="text", paths=(str(tmp_path / "poem.txt"),), validation_fraction=0.25)
    done = prepare(config, seed=0, folder=tmp_path)
    assert stream_of(tmp_path, [s.sha256 for s in done.manifest.validation]) == b"b\n" * 25 + b"\0"
    assert stream_of(tmp_path, [s.sha256 for s in done.manifest.train]) == b"a\n" * 75 + b"\0"


def test_nothing_is_held_out_when_nothing_shall_be(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    config = write(source, a="one", b="two").model_copy(update={"validation_fraction": 0.0})
    done = prepare(config, seed=0, folder=tmp_path)
    assert done.manifest.validation == ()
    assert done.unigram_entropy is None
    assert open_blocks(done.manifest, tmp_path, seed=0).validation_count == 0


def test_what_cannot_be_trained_on_is_refused_by_name(tmp_path: Path) -> None:
    def fails(kind: type[DataError], match: str, *paths: Path) -> None:
        config = DataConfig(source="text", paths=tuple(map(str, paths)))
        with pytest.raises(kind, match=match):
            prepare(config, seed=0, folder=tmp_path / "out")

    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "nothing").mkdir()
    fails(DatasetMissing, "absent", tmp_path / "absent")
    fails(DatasetEmpty, "nothing", tmp_path / "nothing")
    fails(DatasetEmpty, "empty", tmp_path / "empty.txt")
    fails(DataError, r"picture\.png is a binary file", tmp_path / "picture.png")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="file"):
        prepare(DataConfig(source="distributed_dummy"), seed=0, folder=tmp_path / "file")


def test_the_python_library_is_real_text_with_known_entropies(tmp_path: Path) -> None:
    done = prepare(DataConfig(), seed=0, folder=tmp_path)
    bytes_of_text = sum(shard.tokens for shard in done.manifest.train)
    assert 8_000_000 < bytes_of_text < 30_000_000
    assert done.unigram_entropy == pytest.approx(3.3, abs=0.2)  # nats per byte
    assert done.bigram_entropy == pytest.approx(2.45, abs=0.1)


def test_preparing_loads_no_heavy_library() -> None:
    code = (
        "import sys, legion.data.prepare\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'grpc', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
