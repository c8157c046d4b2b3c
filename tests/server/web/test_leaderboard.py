"""Boards, pages of volunteers and teams, certificates: what anybody sees, and what nobody does."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from round_workers import Bench

from legion.accounts import DayView
from legion_server.web.certificates import Certificate, CertificateUnknown, read, written
from legion_server.web.leaderboard import GRAPH_DAYS, graph
from tests.server.api.test_accounts import SOLO, call, claim

BROWSER = {"Accept": "text/html"}


async def text(house: Any, path: str, status: int = 200, **query: str) -> str:
    reply = await house.http.get(path, params=query, headers=BROWSER)
    assert reply.status_code == status, reply.text
    return str(reply.text)


async def contributors(house: Any) -> Any:
    members = await house.start(3, **SOLO)
    for member, name in zip(members, ("Ada", "Ürsula", "Hidden"), strict=True):
        await claim(house, member, name, listed=name != "Hidden")
    await Bench(house, members).play()
    return members


async def test_boards_name_volunteers_and_number_devices(house: Any) -> None:
    assert "Nobody is here yet" in await text(house, "/leaderboard")
    await contributors(house)
    house.clock.now += 11  # totals are kept for a while
    page = await text(house, "/leaderboard")
    assert re.findall(r'<a href="/volunteers/([^"]+)">', page) in (["%C3%9Crsula", "Ada"], ["Ada", "%C3%9Crsula"])
    assert "Hidden" not in page
    assert "3 volunteers" in page
    assert 'data-live="/parts/leaderboard?' in page
    devices = await text(house, "/leaderboard", board="devices")
    assert len(re.findall(r"Device \d+", devices)) == 2
    run = house.backend.coordinator.run.run_id
    for query in ({"order": "recent"}, {"run": run}):
        assert "Ada" in await text(house, "/leaderboard", **query)
    assert "Ada" not in await text(house, "/leaderboard", run="run-00000000")
    assert "Ada" in await text(house, "/leaderboard", name="AD")
    assert "No name on this board begins so" in await text(house, "/leaderboard", name="zz\0")
    assert "Nobody follows" in await text(house, "/leaderboard", after="WzAsICJhIl0")
    await text(house, "/leaderboard", 422, after="nonsense")
    await text(house, "/leaderboard", 422, board="nobodys")


async def test_a_volunteers_page_and_certificate(house: Any) -> None:
    await contributors(house)
    page = await text(house, "/volunteers/%C3%BCrsula")
    assert "<h1>Ürsula</h1>" in page
    assert "Credit by day" in page
    await text(house, "/volunteers/hidden", 404)
    await text(house, "/volunteers/nobody%00", 404)
    svg = await text(house, "/volunteers/ada/certificate.svg")
    root = ElementTree.fromstring(svg)
    said = "".join(root.itertext())
    assert "Ada" in said
    address = root.find(".//{*}a")
    assert address is not None
    checked = await text(house, address.attrib["href"])
    assert "Genuine" in checked
    assert "Ada" in checked
    await text(house, address.attrib["href"][:-2] + "AA", 404)


async def test_a_teams_page(house: Any) -> None:
    ada, ursula, hidden = await house.start(3, **SOLO)
    for member, name in ((ada, "Ada"), (ursula, "Bob"), (hidden, "Hidden")):
        await claim(house, member, name, listed=name != "Hidden")
    team = await call(house, ada, "POST", "/teams", 201, name="<b>Few</b>", about="We & you")
    path = f"/teams/{team['team_id']}"
    await call(house, hidden, "POST", f"{path}/requests")
    await call(house, ada, "PUT", f"{path}/members/hidden")
    await call(house, ursula, "POST", f"{path}/requests")
    await Bench(house, [ada, ursula, hidden]).play()
    page = await text(house, path)
    assert "&lt;b&gt;Few&lt;/b&gt;" in page
    assert "<b>Few" not in page
    assert "Ada</a>, founder" in page
    assert "1 more who are on no board" in page
    assert "Hidden" not in page
    assert "Bob" not in page, "who asks is for the founder to know"
    assert f'href="{path}"' in await text(house, "/teams")
    assert "team &lt;b&gt;Few" in await text(house, f"{path}/certificate.svg")
    await text(house, f"/teams/{'a' * 16}", 404)


SECRET = "00" * 32


@given(name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40), at=st.integers(0, 2**40))
def test_a_certificate_is_read_as_it_was_written(name: str, at: int) -> None:
    certificate = Certificate(name, 12.5, at)
    code = written(certificate, SECRET)
    assert read(code, SECRET) == certificate
    with pytest.raises(CertificateUnknown):
        read(code, "01" * 32)


@given(st.text(max_size=60))
def test_what_nobody_wrote_is_no_certificate(code: str) -> None:
    with pytest.raises(CertificateUnknown):
        read(code, SECRET)


def test_the_graph_has_every_day() -> None:
    now = 20_000.5 * 86_400
    assert graph([], now) is None
    assert graph([DayView(day=1, credit=3.0)], now) is None, "that is long ago"
    chart = graph([DayView(day=20_000, credit=3.0), DayView(day=19_990, credit=1.0)], now)
    assert chart is not None
    assert len(chart.bars) == GRAPH_DAYS
    assert [bar.height > 0 for bar in chart.bars].count(True) == 2
