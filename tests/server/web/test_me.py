"""A volunteer's own page: reached by a link that works once, changed by forms of that page only."""

import re
from typing import Any

import httpx
from round_workers import Bench

from tests.server.api.test_accounts import SOLO, call, claim

BROWSER = {"Accept": "text/html"}


class Browser:
    """Keeps cookies, and sends forms with the token that stands in the page."""

    def __init__(self, house: Any) -> None:
        transport = httpx.ASGITransport(house.app, client=("127.0.0.1", 1))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=BROWSER)
        self.shown = ""

    async def open(self, path: str, status: int = 200) -> str:
        reply = await self.http.get(path)
        assert reply.status_code == status, reply.text
        self.shown = reply.text
        return self.shown

    async def send(self, path: str, status: int = 303, **form: str) -> str:
        found = re.search(r'name="csrf" value="(\w+)"', self.shown)
        form = {"csrf": found[1] if found else ""} | form
        reply = await self.http.post(path, data=form)
        assert reply.status_code == status, reply.text
        if status == 303:
            return await self.open(reply.headers["location"])
        return reply.text


async def signed_in(house: Any, member: Any) -> Browser:
    link = await call(house, member, "POST", "/account/sign-in", 201)
    browser = Browser(house)
    path = link["url"].removeprefix("http://localhost")
    assert "Sign in as" in await browser.open(path)
    assert "My page" in await browser.send(path)
    return browser


async def test_a_link_signs_in_once(house: Any) -> None:
    (member,) = await house.start(1)
    await claim(house, member, "Ada")
    link = await call(house, member, "POST", "/account/sign-in", 201)
    path = link["url"].removeprefix("http://localhost")
    first, second = Browser(house), Browser(house)
    await first.open(path)
    await second.open(path)
    await first.send(path)
    assert "<h1>Ada</h1>" in first.shown
    assert "older than 5 minutes" in await second.send(path, 401)
    await second.open(path, 401)
    await second.open("/me", 401)
    late = (await call(house, member, "POST", "/account/sign-in", 201))["url"].removeprefix("http://localhost")
    house.clock.now += 301
    await second.open(late, 401)


async def test_choices_devices_and_codes(house: Any) -> None:
    one, two = await house.start(2, **SOLO)
    await claim(house, one, "Ada")
    await claim(house, two, "Bob")
    await Bench(house, [one, two]).play()
    browser = await signed_in(house, one)
    assert "Device 1, " in browser.shown
    page = await browser.send("/me/choices", nickname="Lovelace", exported="on")
    assert "<h1>Lovelace</h1>" in page
    assert "What others see" not in page, "not listed any more"
    assert "somebody has the name bob already" in (await browser.send("/me/choices", 409, nickname="bob")).lower()
    code = re.search(r"<strong>(\d{4} \d{4})</strong>", await browser.send("/me/link-code", 200))
    assert code
    assert (await call(house, two, "POST", "/account/link", secret=code[1]))["nickname"] == "Lovelace"
    phrase = re.search(r"<pre>([a-z ]+)</pre>", await browser.send("/me/recovery", 200))
    assert phrase
    assert len(phrase[1].split()) == 12
    await browser.send("/me/devices/2/unlink")
    assert "Device 2" not in browser.shown
    await browser.send("/me/devices/2/unlink", 404)
    await browser.send("/me/devices/1/revoke")
    assert (await house.http.get("/account", headers=one.headers)).status_code == 403
    known = (await browser.http.get("/me/data.json")).json()
    assert known["account"]["nickname"] == "Lovelace"
    assert known["sessions"]


async def test_a_team_by_its_founders_page(house: Any) -> None:
    ada, bob = await house.start(2)
    await claim(house, ada, "Ada")
    await claim(house, bob, "Bob")
    browser = await signed_in(house, ada)
    await browser.send("/me/team", 422, do="found", name="x")
    await browser.send("/me/team", do="found", name="The Few", about="")
    team = (await call(house, ada, "GET", "/account"))["team"]
    await call(house, bob, "POST", f"/teams/{team['team_id']}/requests")
    assert "Bob asks to join" in await browser.open("/me")
    await browser.send("/me/team", do="admit", team_id=team["team_id"], nickname="Bob")
    assert "asks to join" not in browser.shown
    await browser.send("/me/team", 404, do="expel", team_id=team["team_id"], nickname="Eve")
    await browser.send("/me/team", 422, do="dance")
    await browser.send("/me/team", do="leave", team_id=team["team_id"])
    assert (await call(house, bob, "GET", "/account"))["team"]["is_founder"]


async def test_forms_of_other_pages_change_nothing(house: Any) -> None:
    (member,) = await house.start(1)
    await claim(house, member, "Ada")
    browser = await signed_in(house, member)
    await browser.send("/me/choices", 403, nickname="Eve", csrf="0" * 64)
    await browser.send("/me/forget", 403, nickname="Ada", csrf="")
    foreign = {"Origin": "https://elsewhere.example"}
    assert (await browser.http.post("/me/recovery", data={}, headers=foreign)).status_code == 403
    assert "<h1>Ada</h1>" in await browser.open("/me")


async def test_an_account_is_deleted_with_all_that_its_devices_said(house: Any) -> None:
    one, two = await house.start(2)
    await claim(house, one, "Ada")
    code = (await call(house, one, "POST", "/account/link-code", 201))["code"]
    await call(house, two, "POST", "/account/link", secret=code)
    data = await call(house, one, "GET", "/account/data")
    assert [device["name"] for device in data["devices"]] == ["pc", "pc"]
    assert [device["hardware"]["os"] for device in data["devices"]] == ["Linux", "Linux"]
    browser = await signed_in(house, one)
    assert "not Bob" in await browser.send("/me/forget", 422, nickname="Bob")
    await browser.send("/me/forget", nickname="ada", devices="on")
    await browser.open("/me", 401)
    for worker in house.backend.coordinator.state.workers.values():
        assert (worker.state, worker.name, worker.hardware.os, worker.endpoint) == ("revoked", "", "", None)
    assert (await house.http.get("/account", headers=two.headers)).status_code == 403


async def test_boards_show_ones_own_place(house: Any) -> None:
    ada, hidden = await house.start(2, **SOLO)
    await claim(house, ada, "Ada")
    await claim(house, hidden, "Hidden", listed=False)
    await Bench(house, [ada, hidden]).play()
    house.clock.now += 11  # totals are kept for a while
    browser = await signed_in(house, ada)
    for path in ("/leaderboard", "/parts/leaderboard", "/leaderboard?order=recent"):
        assert "Your place: <strong>1</strong>" in await browser.open(path)
        assert browser.shown.count('<tr class="mine">') == 1
    assert "Your place" not in await browser.open("/leaderboard?board=teams")
    assert "Your place" not in await Browser(house).open("/leaderboard")
    other = await signed_in(house, hidden)
    assert "Your place" in await other.open("/leaderboard")
    assert '<tr class="mine">' not in other.shown
