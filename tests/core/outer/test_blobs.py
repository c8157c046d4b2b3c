"""Updates in a folder: checked before they have a name there, whole or not at all."""

import hashlib
import os
from pathlib import Path

import pytest

from legion.errors import FingerprintMismatch, StorageFailed
from legion.outer.blobs import BlobFolder


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [1, 4095, 1 << 20, (1 << 20) + 1, (3 << 20) - 7])
def test_what_was_put_is_read(tmp_path: Path, size: int) -> None:
    blobs, data = BlobFolder(tmp_path / "updates"), os.urandom(size)
    sha256 = digest_of(data)
    assert not blobs.has(sha256)
    path = blobs.put(sha256, data)
    assert path == blobs.path(sha256)
    assert blobs.has(sha256)
    assert path.read_bytes() == data
    assert blobs.read(sha256) == data
    assert blobs.put(sha256, memoryview(data)) == path
    assert files(tmp_path / "updates") == [sha256]


def test_something_else_is_not_taken(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path)
    with pytest.raises(FingerprintMismatch, match=f"{digest_of(b'damaged')[:12]}, not {digest_of(b'update')[:12]}"):
        blobs.put(digest_of(b"update"), b"damaged")
    assert files(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    blobs, data = BlobFolder(tmp_path), os.urandom(1 << 20)
    sha256 = digest_of(data)
    (tmp_path / f".{sha256}.partial").symlink_to("/dev/full")
    with pytest.raises(StorageFailed, match="No space left on device"):
        blobs.put(sha256, data)
    assert files(tmp_path) == []
    assert not blobs.has(sha256)
    blobs.put(sha256, data)  # and there is room again
    assert blobs.read(sha256) == data


def test_a_half_written_file_of_a_killed_engine_is_nothing(tmp_path: Path) -> None:
    blobs, sha256 = BlobFolder(tmp_path), digest_of(b"update")
    (tmp_path / f".{sha256}.partial").write_bytes(b"upd")
    assert not blobs.has(sha256)
    blobs.put(sha256, b"update")
    assert files(tmp_path) == [sha256]


def test_what_is_forgotten_is_gone_for_good_but_not_for_who_reads_it(tmp_path: Path) -> None:
    blobs, sha256 = BlobFolder(tmp_path), digest_of(b"update")
    blobs.put(sha256, b"update")
    view = blobs.read(sha256)
    blobs.forget(sha256)
    assert view == b"update"
    assert files(tmp_path) == []
    blobs.forget(sha256)
    with pytest.raises(StorageFailed, match="cannot be read"):
        blobs.read(sha256)


def test_an_empty_file_is_no_update(tmp_path: Path) -> None:
    blobs, sha256 = BlobFolder(tmp_path), digest_of(b"")
    blobs.put(sha256, b"")
    with pytest.raises(StorageFailed, match="cannot be read"):
        blobs.read(sha256)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed, match=r"file.* cannot be used: "):
        BlobFolder(tmp_path / "file" / "updates")
    blobs = BlobFolder(tmp_path / "updates")
    (tmp_path / "updates").rmdir()
    with pytest.raises(StorageFailed, match="No such file or directory"):
        blobs.put(digest_of(b"update"), b"update")


def test_what_cannot_be_removed_is_said(tmp_path: Path) -> None:
    blobs, sha256 = BlobFolder(tmp_path), digest_of(b"update")
    (tmp_path / sha256).mkdir()
    with pytest.raises(StorageFailed, match="cannot be removed"):
        blobs.forget(sha256)
