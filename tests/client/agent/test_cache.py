"""The cache keeps only what its name says, whatever the disk or the server does."""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.errors import FingerprintMismatch, StorageFailed
from legion_client.agent.cache import PART, Cache, Download

CONTENT = bytes(range(256)) * 17 + b"odd"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Source:
    """A server of one file; remembers from where it was asked."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.offsets: list[int] = []

    def download(self, breaks_after: int | None = None) -> Download:
        async def chunks(offset: int) -> AsyncIterator[bytes]:
            self.offsets.append(offset)
            for start in range(offset, len(self.content), 1000):
                if breaks_after is not None and start >= breaks_after:
                    raise ConnectionError("cut")
                yield self.content[start : start + 1000]

        return chunks


async def test_a_file_is_downloaded_once(tmp_path: Path) -> None:
    source, cache = Source(), Cache(tmp_path / "cache")
    for _ in range(2):
        path = await cache.fetch(SHA256, source.download())
    assert path == tmp_path / "cache" / SHA256
    assert path.read_bytes() == CONTENT
    assert source.offsets == [0]


async def test_a_cut_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source, cache = Source(), Cache(tmp_path)
    with pytest.raises(StorageFailed):
        await cache.fetch(SHA256, source.download(breaks_after=2000))
    assert not cache.path(SHA256).exists()
    assert (await cache.fetch(SHA256, source.download())).read_bytes() == CONTENT
    assert source.offsets == [0, 2000]


async def test_a_tampered_file_is_fetched_again(tmp_path: Path) -> None:
    source, cache = Source(), Cache(tmp_path)
    path = await cache.fetch(SHA256, source.download())
    path.write_bytes(CONTENT[:-1] + b"X")
    assert (await cache.fetch(SHA256, source.download())).read_bytes() == CONTENT
    assert source.offsets == [0, 0]


@pytest.mark.parametrize("damage", [b"garbage", CONTENT + b"too long", b""])
async def test_a_damaged_beginning_is_thrown_away(tmp_path: Path, damage: bytes) -> None:
    source, cache = Source(), Cache(tmp_path)
    (tmp_path / f"{SHA256}.part").write_bytes(damage)
    assert (await cache.fetch(SHA256, source.download())).read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [CONTENT[:-1], CONTENT + b"!", b""])
async def test_a_server_with_other_content_is_not_believed(tmp_path: Path, wrong: bytes) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(FingerprintMismatch, match=SHA256):
        await cache.fetch(SHA256, Source(wrong).download())
    assert not cache.path(SHA256).exists()
    assert not cache.path(SHA256).with_suffix(".part").exists()


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed):
        await Cache(tmp_path / "file").fetch(SHA256, Source().download())


def filled(cache: Cache, **files: int) -> None:
    """Files of these sizes, the first unused for longest."""
    cache.folder.mkdir()
    for age, (name, size) in enumerate(files.items()):
        (cache.folder / name).write_bytes(bytes(size))
        os.utime(cache.folder / name, (age, age))


def names(cache: Cache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


@pytest.mark.parametrize(
    ("most", "spare", "left"),
    [
        (None, None, {"old", "b", "mid", "new"}),
        (145, None, {"old", "b", "mid", "new"}),
        (144, None, {"b", "mid", "new"}),
        (130, None, {"b", "new"}),
        (None, 9, {"b", "new"}),
        (60, 60, {"b"}),
        (60, 0, {"b"}),
    ],
)
def test_room_is_made_by_what_was_unused_for_longest(
    tmp_path: Path, most: int | None, spare: int | None, left: set[str]
) -> None:
    cache = Cache(tmp_path / "cache")
    filled(cache, old=10, b=20, mid=30, new=45)
    assert cache.make_room({"a": 40, "b": 20}, most, spare) is None
    assert names(cache) == left


@pytest.mark.parametrize(("most", "spare"), [(59, None), (None, 0), (100, 0)])
def test_nothing_is_deleted_where_that_does_not_help(tmp_path: Path, most: int | None, spare: int | None) -> None:
    cache = Cache(tmp_path / "cache")
    filled(cache, old=10, b=20)
    assert cache.make_room({"a": 40, "b": 20}, most, spare) == 40
    assert names(cache) == {"old", "b"}


def test_what_came_of_a_download_is_no_longer_missing(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    filled(cache, **{f"a{PART}": 30, f"old{PART}": 5})
    assert cache.make_room({"a": 40}, 44, None) is None
    assert names(cache) == {f"a{PART}"}
    assert Cache(tmp_path / "none").make_room({"a": 40}, 40, 40) is None


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 60), st.integers(0, 300), st.integers(0, 60))
def test_room_that_was_made_is_enough(sizes: list[int], wanted: int, most: int, spare: int) -> None:
    with TemporaryDirectory() as folder:
        cache = Cache(Path(folder) / "cache")
        filled(cache, **{f"f{number}": size for number, size in enumerate(sizes)})
        missing = cache.make_room({"a": wanted}, most, spare)
        held = sum(path.stat().st_size for path in cache.folder.iterdir())
        if missing is None:
            assert held + wanted <= most
            assert wanted <= spare + sum(sizes) - held
        else:
            assert (missing, held) == (wanted, sum(sizes))
            assert wanted > most or wanted > spare + sum(sizes)
