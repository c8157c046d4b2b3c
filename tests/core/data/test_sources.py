"""Sources: the same documents in the same order every time, and real text."""

from pathlib import Path

import numpy as np
import pytest

from legion.data import sources
from legion.data.blobs import verified, write_blob
from legion.data.entropy import entropies
from legion.data.tokenizer import BYTES
from legion.errors import DataError, FingerprintMismatch


def test_the_python_library_is_sorted_source_without_tests_and_packages() -> None:
    documents = sources.python_stdlib()
    names = [document.name for document in documents]
    assert names == sorted(names) == [document.name for document in sources.python_stdlib()]
    assert "json/decoder.py" in names
    assert not any({"test", "tests", "site-packages"} & set(name.split("/")) for name in names)
    assert "class JSONDecoder" in next(d for d in documents if d.name == "json/decoder.py").read()


def test_files_and_folders_are_read_in_order_with_faults_replaced(tmp_path: Path) -> None:
    (tmp_path / "book" / "part").mkdir(parents=True)
    (tmp_path / "book" / "b.txt").write_text("b")
    (tmp_path / "book" / "part" / "a.md").write_bytes(b"\xffa")
    (tmp_path / "book" / ".hidden").write_text("no")
    (tmp_path / "book" / "empty.txt").touch()
    (tmp_path / "alone.txt").write_text("é", "utf-8")
    found = sources.text([str(tmp_path / "book"), str(tmp_path / "alone.txt")])
    assert [(document.name, document.read()) for document in found] == [
        ("alone.txt", "é"),
        ("book/b.txt", "b"),
        ("book/part/a.md", "�a"),
    ]


def test_files_of_one_name_are_two_documents(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_text(folder)
    paths = [str(tmp_path / folder / "same.txt") for folder in ("x", "y")]
    assert sorted(document.read() for document in sources.text(paths)) == ["x", "y"]
    (tmp_path / "x").rename(tmp_path / "book")
    (tmp_path / "z").mkdir()
    (tmp_path / "y").rename(tmp_path / "z" / "book")
    folders = [str(tmp_path / "book"), str(tmp_path / "z" / "book"), str(tmp_path / "book")]
    assert sorted(document.read() for document in sources.text(folders)) == ["x", "y"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    documents = sources.text([str(tmp_path)])
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"a\.txt: No such file"):
        documents[0].read()


def test_the_dummy_is_the_same_everywhere_and_worth_learning() -> None:
    documents = sources.distributed_dummy(0)
    assert [d.read() for d in documents[:3]] == [d.read() for d in sources.distributed_dummy(0)[:3]]
    assert documents[0].read() != sources.distributed_dummy(1)[0].read()
    assert len({document.read() for document in documents}) == len(documents)
    known = entropies(np.concatenate([BYTES.encode(document.read()) for document in documents]))
    assert known.unigram is not None
    assert known.bigram is not None
    assert known.bigram < 0.7 * known.unigram  # nats per byte


def test_a_blob_is_its_hash(tmp_path: Path) -> None:
    sha256 = write_blob(tmp_path / "new", b"content")
    assert verified(tmp_path / "new", sha256).read_bytes() == b"content"
    (tmp_path / "new" / sha256).write_bytes(b"conten!")
    with pytest.raises(FingerprintMismatch, match=sha256):
        verified(tmp_path / "new", sha256)
    assert write_blob(tmp_path / "new", b"content") == sha256
    assert [path.name for path in (tmp_path / "new").iterdir()] == [sha256]
    assert verified(tmp_path / "new", sha256).read_bytes() == b"content"
