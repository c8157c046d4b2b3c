"""What every storage of updates promises: a local folder, and fsspec's memory for those that are none."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from legion.errors import NotFound, ReportInvalid, StorageFailed, Unusable
from legion_server.service.blobs import PIECE_BYTES, Blobs, Damaged
from legion_server.settings import Settings

SIZES = [1, 2, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 3]


def content(size: int) -> tuple[str, bytes]:
    data = bytes(i * 7 % 251 for i in range(min(size, 1000))) * (size // 1000 + 1)
    return hashlib.sha256(data[:size]).hexdigest(), data[:size]


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


async def streamed(data: bytes, piece: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), piece):
        yield data[start : start + piece]


async def read(blobs: Blobs, name: str, start: int, stop: int) -> bytes:
    return b"".join([piece async for piece in blobs.read(name, start, stop)])


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """A server that speaks S3, and a bucket in it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    given |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        fsspec.filesystem("s3").mkdir("updates")
        yield server
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "s3":
        request.getfixturevalue("store")
    places = {
        "folder": str(tmp_path / "blobs"),
        "memory": f"memory://{tmp_path.name}",
        "s3": f"s3://updates/{tmp_path.name}",
    }
    return Blobs(places[request.param], tmp_path / "blobs")


async def test_the_default_place_is_in_the_data_folder_whatever_that_is_called(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "a b%20c")
    blobs = Blobs(settings.updates_url, settings.incoming_dir)
    name, data = content(10)
    await blobs.receive(name, 10, streamed(data))
    assert files_in(tmp_path / "a b%20c" / "blobs") == [name]


@pytest.mark.parametrize("kind", ["folder", "memory"])
async def test_servers_that_share_a_place_do_not_touch_each_others(tmp_path: Path, kind: str) -> None:
    url = str(tmp_path / "blobs") if kind == "folder" else f"memory://shared-{tmp_path.name}"
    one, other = (Blobs(url, tmp_path / "incoming", owner=owner) for owner in ("aaaa", "bbbb"))
    name, data = content(10)
    for blobs in (one, other):
        await blobs.receive(name, 10, streamed(data))
    await other.delete(name)
    assert await other.names() == []
    assert await one.names() == [name]
    assert await read(one, name, 0, 10) == data


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_stored_is_read(blobs: Blobs, tmp_path: Path, size: int) -> None:
    name, data = content(size)
    assert await blobs.size(name) is None
    for _ in range(2):  # again changes nothing
        await blobs.receive(name, size, streamed(data))
    assert await blobs.size(name) == size
    assert await read(blobs, name, 0, size) == data
    assert await read(blobs, name, size // 3, size // 2) == data[size // 3 : size // 2]
    await blobs.fetch(name, size, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert await blobs.names() == [name]


async def test_nothing_half_is_there(blobs: Blobs, tmp_path: Path) -> None:
    name, data = content(300_000)
    for wrong in (data[:-1], data + b"x", bytes(len(data)), b""):
        with pytest.raises(ReportInvalid):
            await blobs.receive(name, len(data), streamed(wrong))

    async def broken() -> AsyncIterator[bytes]:
        yield data[:1000]
        raise ConnectionResetError("gone")

    with pytest.raises(StorageFailed):
        await blobs.receive(name, len(data), broken())
    assert await blobs.size(name) is None
    assert await blobs.names() == []
    assert files_in(tmp_path) == []


async def test_two_uploads_at_once_are_one(blobs: Blobs) -> None:
    name, data = content(250_000)
    await asyncio.gather(*(blobs.receive(name, len(data), streamed(data, piece)) for piece in (1000, 7777)))
    assert await read(blobs, name, 0, len(data)) == data


async def test_what_is_deleted_is_gone(blobs: Blobs, tmp_path: Path) -> None:
    name, data = content(10)
    await blobs.receive(name, 10, streamed(data))
    for _ in range(2):
        await blobs.delete(name)
    assert await blobs.names() == []
    with pytest.raises(NotFound):
        await read(blobs, name, 0, 10)
    with pytest.raises(NotFound):
        await blobs.fetch(name, 10, tmp_path / "copy")


def damage(blobs: Blobs, name: str) -> None:
    blobs._storage.pipe_file(blobs._path(name), b"0123456789")


async def test_damage_in_storage_is_noticed_and_can_be_mended(blobs: Blobs, tmp_path: Path) -> None:
    name, data = content(10)
    await blobs.receive(name, 10, streamed(data))
    damage(blobs, name)
    with pytest.raises(Damaged):
        await blobs.fetch(name, 10, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert await blobs.size(name) is None
    await blobs.receive(name, 10, streamed(data))
    await blobs.fetch(name, 10, tmp_path / "copy")


async def test_only_what_was_read_as_damaged_is_deleted(blobs: Blobs) -> None:
    """Of two readers of a damaged blob the slower one must not delete what was put in its place."""
    name, data = content(10)
    await blobs.receive(name, 10, streamed(data))
    damage(blobs, name)
    before = await blobs.version(name)
    assert await blobs.discard(name, before)
    assert not await blobs.discard(name, before)
    await blobs.receive(name, 10, streamed(data))
    assert not await blobs.discard(name, before)
    assert await read(blobs, name, 0, 10) == data
    assert await blobs.discard(name, await blobs.version(name))
    with pytest.raises(NotFound):
        await blobs.version(name)


async def test_parts_of_a_killed_upload_are_swept(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path), tmp_path)
    name, data = content(10)
    await blobs.receive(name, 10, streamed(data))
    (tmp_path / f"{'0' * 64}.abcd.part").write_bytes(b"x")
    await blobs.sweep()
    assert files_in(tmp_path) == [name]


async def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(tmp_path.as_uri(), tmp_path)
    name, data = content(10)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("legion_server.service.blobs.os.fsync", full)
    with pytest.raises(StorageFailed, match="No space left on device"):
        await blobs.receive(name, 10, streamed(data))
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("url", ["nonsense://x", "s3x://bucket"])
def test_a_place_that_nobody_knows_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="cannot be used for blobs") as caught:
        Blobs(url, tmp_path)
    assert "LEGION_BLOBS_URL" in caught.value.hint


async def test_a_store_that_is_away_is_named(tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its library raises then is no OSError."""

    class Away(Exception):
        pass

    blobs = Blobs(f"s3://updates/{tmp_path.name}", tmp_path / "blobs")

    def away(*_: object, **__: object) -> None:
        raise Away("no connection to https://key:secret-of-the-bucket@store.example")

    monkeypatch.setattr(blobs._storage, "ls", away)
    with pytest.raises(StorageFailed, match=r"no connection to https://store\.example") as caught:
        await blobs.names()
    assert "secret-of-the-bucket" not in str(caught.value)


async def test_a_bucket_that_does_not_exist_is_named(tmp_path: Path, store: Any) -> None:
    blobs = Blobs("s3://nowhere/updates", tmp_path / "blobs")
    name, data = content(10)
    with pytest.raises(StorageFailed, match=r"storage|stored"):
        await blobs.receive(name, 10, streamed(data))
