"""The cache keeps only what its name says, whatever the disk or the server does."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from legion.errors import FingerprintMismatch, StorageFailed
from legion_client.agent.cache import Cache, Download

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
