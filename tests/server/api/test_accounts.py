"""Accounts, devices, teams and boards over HTTP, with credit from rounds that were really committed."""

from typing import Any

import pytest
from round_workers import Bench

from tests.server.service.test_credit import PAIRS

SOLO: dict[str, Any] = {"cluster": {"policy": "solo"}, "rounds": {"steps": 2, "audit": 0.0}}


async def call(house: Any, member: Any, method: str, path: str, status: int = 200, **body: Any) -> Any:
    reply = await house.http.request(method, path, json=body or None, headers=member.headers)
    assert reply.status_code == status, reply.text
    return reply.json() if reply.content else None


async def claim(house: Any, member: Any, nickname: str, **choices: Any) -> str:
    """The recovery phrase."""
    reply = await call(house, member, "POST", "/account", 201, nickname=nickname, **choices)
    assert reply["account"]["nickname"] == nickname
    phrase = reply["recovery_phrase"]
    assert len(phrase.split()) == 12
    return str(phrase)


async def board(house: Any, name: str = "volunteers", **query: Any) -> list[tuple[int, str | None, int]]:
    reply = await house.http.get(f"/boards/{name}", params=query)
    assert reply.status_code == 200, reply.text
    return [(row["rank"], row["name"] or row["device"], row["tokens"]) for row in reply.json()["rows"]]


async def test_what_was_done_before_a_name_was_claimed_counts(house: Any) -> None:
    one, two = await house.start(2, **SOLO)
    bench = Bench(house, [one, two])
    plan = await bench.play()
    tokens = plan.participants[0].most_tokens
    assert (await call(house, one, "GET", "/account"))["nickname"] is None
    await claim(house, one, "Ada")
    view = await call(house, one, "GET", "/account")
    run = house.backend.coordinator.run
    parameters = house.shape.parameters
    assert view["standing"]["credit"] == 6 * parameters * tokens // 10**6 / 10**6
    assert view["standing"]["rank"] == 1
    assert await board(house) == [(1, "Ada", tokens)]
    assert await board(house, run=run.run_id) == [(1, "Ada", tokens)]
    assert await board(house, order="recent") == [(1, "Ada", tokens)]
    assert await board(house, run="run-00000000") == []
    devices = await board(house, "devices")
    assert [(rank, amount) for rank, _, amount in devices] == [(1, tokens), (1, tokens)]
    assert sorted(type(name).__name__ for _, name, _ in devices) == ["int", "str"]
    page = (await house.http.get("/boards/volunteers/ada")).json()
    assert page["nickname"] == "Ada"
    assert page["runs"].keys() == {run.run_id}
    assert [day["credit"] for day in page["days"]] == [view["standing"]["credit"]]
    found = (await house.http.get("/boards/volunteers/search", params={"name": "AD"})).json()
    assert [row["name"] for row in found] == ["Ada"]


async def test_another_device_is_linked_by_code_and_after_a_loss_by_phrase(house: Any) -> None:
    one, two, three = await house.start(3)
    phrase = await claim(house, one, "Ada")
    code = (await call(house, one, "POST", "/account/link-code", 201))["code"]
    assert len(code) == 8
    view = await call(house, two, "POST", "/account/link", secret=f"{code[:4]} {code[4:]}")
    assert [(device["number"], device["is_this"]) for device in view["devices"]] == [(1, False), (2, True)]
    await call(house, three, "POST", "/account/link", 404, secret=code)
    await call(house, three, "POST", "/account/link", 404, secret="abandon " * 12)
    view = await call(house, three, "POST", "/account/link", secret=f"  {phrase.upper()} ")
    assert view["nickname"] == "Ada"
    view = await call(house, one, "DELETE", "/account/devices/2")
    assert [device["number"] for device in view["devices"]] == [1, 3]
    assert (await call(house, two, "GET", "/account"))["nickname"] is None
    await call(house, one, "DELETE", "/account/devices/2", 404)
    newer = (await call(house, one, "POST", "/account/recovery"))["recovery_phrase"]
    await call(house, two, "POST", "/account/link", 404, secret=phrase)
    await call(house, two, "POST", "/account/link", secret=newer)


async def test_a_code_expires_and_cannot_be_guessed(house: Any) -> None:
    one, two = await house.start(2)
    await claim(house, one, "Ada")
    code = (await call(house, one, "POST", "/account/link-code", 201))["code"]
    house.clock.now += 601
    await call(house, two, "POST", "/account/link", 404, secret=code)
    for guess in range(19):
        await call(house, two, "POST", "/account/link", 404, secret=f"{guess:08d}")
    reply = await house.http.post("/account/link", json={"secret": "00000099"}, headers=two.headers)
    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) >= 1


async def test_names(house: Any) -> None:
    one, two = await house.start(2)
    for wrong in ("x", "admin", "A_d.m-i.n", "two words", "a--b", "\u202eada", "a" * 25, "-ada", "\0\0\0"):
        await call(house, one, "POST", "/account", 422, nickname=wrong)
    await claim(house, one, "Ürsula")
    await call(house, one, "POST", "/account", 422, nickname="another")
    reply = await house.http.post("/account", json={"nickname": "ÜRSULA"}, headers=two.headers)
    assert reply.status_code == 409
    assert reply.json()["slug"] == "name-taken"
    await claim(house, two, "bob")
    view = await call(house, two, "PATCH", "/account", nickname="Bob", listed=False)
    assert (view["nickname"], view["listed"], view["exported"]) == ("Bob", False, False)
    assert (await house.http.get("/boards/volunteers/bob")).status_code == 404


async def test_who_wants_to_be_forgotten_is(house: Any) -> None:
    one, two = await house.start(2, **PAIRS)
    await Bench(house, [one, two]).play()
    await claim(house, one, "Ada")
    await call(house, one, "POST", "/account/forget", 422, nickname="Bob")
    await call(house, one, "POST", "/account/forget", 204, nickname="ada")
    assert await board(house) == []
    assert sorted(name for _, name, _ in await board(house, "devices")) == [1, 2]
    assert (await call(house, one, "GET", "/account"))["nickname"] is None
    await call(house, one, "POST", "/account/link-code", 404)
    await claim(house, two, "Ada")


async def test_a_team_lets_in_whom_its_founder_admits(house: Any) -> None:
    ada, bob, eve = await house.start(3, **SOLO)
    bench = Bench(house, [ada, bob, eve])
    for member, name in ((ada, "Ada"), (bob, "Bob"), (eve, "Eve")):
        await claim(house, member, name)
    team = await call(house, ada, "POST", "/teams", 201, name="The Few", about="We  are\nfew.")
    assert (team["founder"], team["about"]) == ("Ada", "We are few.")
    path = f"/teams/{team['team_id']}"
    await call(house, bob, "POST", f"{path}/requests")
    await call(house, eve, "POST", f"{path}/requests")
    assert (await call(house, bob, "GET", f"/boards{path}"))["requests"] == []
    asking = (await call(house, ada, "GET", f"/boards{path}"))["requests"]
    assert {request["nickname"] for request in asking} == {"Bob", "Eve"}
    await call(house, bob, "PUT", f"{path}/members/bob", 403)
    await call(house, ada, "PUT", f"{path}/members/bob")
    await call(house, ada, "DELETE", f"{path}/requests/eve")
    await call(house, ada, "PUT", f"{path}/members/eve", 404)
    plan = await bench.play()
    tokens = plan.participants[0].most_tokens
    assert await board(house, "teams") == [(1, "The Few", 2 * tokens)]
    await call(house, ada, "PATCH", path, founder="Bob")
    await call(house, ada, "DELETE", f"{path}/members/bob", 403)
    await call(house, bob, "DELETE", f"{path}/members/ada")
    await call(house, bob, "DELETE", f"{path}/membership", 204)
    await call(house, bob, "DELETE", f"{path}/membership", 404)
    shown = (await house.http.get(f"/boards{path}")).json()
    assert (shown["member_count"], shown["founder"]) == (0, None)
    await call(house, eve, "POST", f"{path}/requests")
    assert (await house.http.get(f"/boards{path}")).json()["founder"] == "Eve"


async def test_a_link_that_signs_in_is_said_to_the_device_alone(house: Any) -> None:
    (one,) = await house.start(1)
    await call(house, one, "POST", "/account/sign-in", 404)
    await claim(house, one, "Ada")
    link = await call(house, one, "POST", "/account/sign-in", 201)
    token = link["url"].removeprefix("http://localhost/sign-in/")
    accounts = house.backend.accounts
    assert (await accounts.holder("sign-in", token)).nickname == "Ada"
    assert (await accounts.signs_in(token)).nickname == "Ada"
    assert await accounts.signs_in(token) is None


@pytest.mark.parametrize("after", ["x", "W10", "WzEsIDJd", "W05hTiwgImEiXQ", "WzFlOTk5LCAiYSJd", "WzEsICJcdTAwMDAiXQ"])
async def test_a_cursor_that_no_page_gave_is_refused(house: Any, after: str) -> None:
    reply = await house.http.get("/boards/devices", params={"after": after})
    assert reply.status_code == 422
    assert "cursor" in reply.json()["detail"]


async def test_a_board_is_read_in_pages(house: Any) -> None:
    bench = Bench(house, await house.start(4, **PAIRS))
    await bench.play()
    first = (await house.http.get("/boards/devices", params={"limit": 3})).json()
    assert (len(first["rows"]), first["accounts"]) == (3, 4)
    second = (await house.http.get("/boards/devices", params={"limit": 3, "after": first["after"]})).json()
    assert (len(second["rows"]), second["after"]) == (1, None)
    numbers = [row["device"] for row in first["rows"] + second["rows"]]
    assert sorted(numbers) == [1, 2, 3, 4]
