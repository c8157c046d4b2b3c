"""The export: who agreed is in it, nobody else, and nobody fetches the same twice."""

import gzip
import json
from typing import Any

import pytest
from round_workers import Bench

from legion_server.service.statistics import FRESH_S
from legion_server.store import statistics
from tests.server.api.test_accounts import SOLO, call, claim

BOARDS = ("volunteers", "teams", "devices")


async def lines(house: Any, board: str) -> list[dict[str, Any]]:
    reply = await house.http.get(f"/export/{board}.jsonl.gz")
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in reply.headers
    return [json.loads(line) for line in gzip.decompress(reply.content).splitlines()]


async def contributors(house: Any) -> Any:
    """Ada and Bob agree, Carl is only on the boards, and nobody knows whose the fourth is."""
    members = await house.start(4, **SOLO)
    for member, (name, agreed) in zip(members, {"Ada": True, "Bob": True, "Carl": False}.items(), strict=False):
        await claim(house, member, name, exported=agreed)
    await Bench(house, members).play()
    return members


async def test_who_agreed_is_in_it_with_what_the_boards_say(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "BATCH", 1)
    ada, bob, carl, _ = await contributors(house)
    team = await call(house, ada, "POST", "/teams", 201, name="Night owls", about="")
    await call(house, carl, "POST", "/teams", 201, name="Shy", about="")
    people = {line["nickname"]: line for line in await lines(house, "volunteers")}
    assert people.keys() == {"Ada", "Bob"}
    board = {row["name"]: row for row in (await house.http.get("/boards/volunteers")).json()["rows"]}
    for name, line in people.items():
        assert line.keys() == {"nickname", "created_at", "team_id", "tokens", "credit", "credit_a_day"}
        assert (line["tokens"], line["credit"]) == (board[name]["tokens"], board[name]["credit"])
        assert line["credit_a_day"] == pytest.approx(board[name]["credit_a_day"], abs=0.001)
        assert line["tokens"] > 0
    assert people["Ada"]["team_id"] == team["team_id"]
    assert people["Bob"]["team_id"] is None
    assert [(line["name"], line["members"], line["tokens"]) for line in await lines(house, "teams")] == [
        ("Night owls", 1, 0)
    ]
    devices = await lines(house, "devices")
    assert [line["nickname"] for line in devices] == ["Ada", "Bob"]
    assert [line["tokens"] for line in devices] == [people["Ada"]["tokens"], people["Bob"]["tokens"]]
    for board_name in BOARDS:
        said = json.dumps(await lines(house, board_name))
        assert not any(secret in said for member in (ada, bob, carl) for secret in (member.worker_id, member.token))


async def test_it_is_made_anew_when_it_is_old_and_fetched_when_it_is_new(house: Any) -> None:
    ada, _, carl, _ = await contributors(house)
    path = "/export/volunteers.jsonl.gz"
    first = await house.http.get(path)
    await call(house, ada, "PATCH", "/account", exported=False)
    assert (await house.http.get(path)).content == first.content
    known = {"If-None-Match": first.headers["etag"]}
    same = await house.http.get(path, headers=known)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
    dated = {"If-Modified-Since": first.headers["last-modified"]}
    assert (await house.http.get(path, headers=dated)).status_code == 304
    part = await house.http.get(path, headers={"Range": "bytes=0-1"})
    assert (part.status_code, part.content) == (206, b"\x1f\x8b")
    house.clock.now += FRESH_S
    assert [line["nickname"] for line in await lines(house, "volunteers")] == ["Bob"]
    for headers in (known, dated, {"If-None-Match": '"x"', **dated}, {"If-Modified-Since": "yesterday"}):
        assert (await house.http.get(path, headers=headers)).status_code == 200, headers
    await call(house, carl, "PATCH", "/account", exported=True)
    house.clock.now += FRESH_S
    assert {line["nickname"] for line in await lines(house, "volunteers")} == {"Bob", "Carl"}


async def test_nothing_new_has_the_same_tag(house: Any) -> None:
    tags = []
    for _ in range(2):
        reply = await house.http.get("/export/teams.jsonl.gz")
        assert gzip.decompress(reply.content) == b""
        tags.append(reply.headers["etag"])
        house.clock.now += FRESH_S
    assert tags[0] == tags[1]


async def test_a_full_disk_is_said(house: Any) -> None:
    (house.backend.settings.data_dir / "exports").write_text("in the way")
    reply = await house.http.get("/export/teams.jsonl.gz")
    assert (reply.status_code, reply.json()["slug"]) == (507, "storage-failed")


async def test_who_is_forgotten_is_gone(house: Any) -> None:
    ada, *_ = await contributors(house)
    await call(house, ada, "POST", "/account/forget", 204, nickname="Ada", devices=False)
    assert [line["nickname"] for line in await lines(house, "volunteers")] == ["Bob"]
    assert [line["nickname"] for line in await lines(house, "devices")] == ["Bob"]
