"""Files and folders appear whole or not at all, whatever the disk does."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from legion.checkpoint.storage import PIECE_BYTES, new_file, new_folder
from legion.errors import StorageFailed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 3])
def test_a_file_holds_what_was_written_and_knows_its_hash(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    with new_file(tmp_path / "file") as sink:
        sink.write(data[:1])
        sink.write(memoryview(data)[1:])
        assert names(tmp_path) == [".file.partial"]
    assert (tmp_path / "file").read_bytes() == data
    assert sink.written.sha256 == hashlib.sha256(data).hexdigest()
    assert sink.written.size_bytes == size
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_a_failed_file_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def fail() -> None:
        with new_file(tmp_path / "file") as sink:
            sink.write(b"new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="No such file or directory") as caught, new_file(tmp_path / "no" / "file"):
        pass
    assert str(tmp_path / "no" / "file") in str(caught.value)


def test_a_full_disk_leaves_nothing() -> None:
    # The kernel's own refusal: a process that may not write more than 1 MiB to a file.
    code = f"""
import resource, signal, tempfile
from pathlib import Path
from legion.checkpoint.storage import new_file
from legion.errors import StorageFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "file"
    try:
        with new_file(path) as sink:
            sink.write(bytes({3 << 20}))
    except StorageFailed as error:
        print(list(Path(folder).iterdir()), "{os.strerror(errno.EFBIG)}" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_no_space_left_is_said(tmp_path: Path) -> None:
    (tmp_path / ".file.partial").symlink_to("/dev/full")
    with pytest.raises(StorageFailed, match="No space left on device"), new_file(tmp_path / "file") as sink:
        sink.write(bytes(1 << 20))
    assert names(tmp_path) == []


def test_a_folder_takes_its_place_at_the_end(tmp_path: Path) -> None:
    with new_folder(tmp_path / "made") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "made").exists()
    assert names(tmp_path) == ["made"]
    assert names(tmp_path / "made") == ["a"]


def test_a_folder_replaces_another(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with new_folder(tmp_path / "made") as folder:
            (folder / name).write_text("1")
    assert names(tmp_path) == ["made"]
    assert names(tmp_path / "made") == ["new"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with new_folder(tmp_path / "made") as folder:
        (folder / "old").write_text("1")

    def fail() -> None:
        with new_folder(tmp_path / "made") as folder:
            (folder / "new").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == ["made"]
    assert names(tmp_path / "made") == ["old"]


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    for leftover in (".made.partial", ".made.replaced"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "junk").write_text("1")
    with new_folder(tmp_path / "made") as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["made"]


def test_a_replacement_killed_half_way_is_undone(tmp_path: Path) -> None:
    (tmp_path / ".made.replaced").mkdir()
    (tmp_path / ".made.replaced" / "old").write_text("1")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "made"):
        raise RuntimeError
    assert names(tmp_path / "made") == ["old"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageFailed, match="could not be written"), new_folder(tmp_path / "file" / "made"):
        pass
