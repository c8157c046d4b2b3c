"""What Prometheus reads, who may, and that Grafana's dashboard asks for nothing that is not there."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from legion_server.settings import Settings

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "assets" / "grafana-dashboard.json"
OPERATIONS = ROOT / "docs" / "operations.md"
PROMQL = {"and", "by", "delta", "deriv", "histogram_quantile", "max", "min", "or", "rate", "sum", "time"}
ADDED_BY_PROMETHEUS = {"instance", "job"}
# There are none of these before something has been trained, evaluated or refused.
LATER = {"legion_loss_nats", "legion_validation_loss_nats", "legion_rounds_round_s"}

Sample = tuple[str, tuple[tuple[str, str], ...]]


async def exposed(house: Any) -> dict[Sample, float]:
    reply = await house.admin.get("/metrics/server")
    assert reply.status_code == 200, reply.text
    families = text_string_to_metric_families(reply.text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: dict[Sample, float], name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


async def test_requests_are_counted_and_timed_by_route(house: Any) -> None:
    member = await house.join()
    for _ in range(3):
        await member.beat("preparing")
    await house.http.get("/nowhere")
    await house.http.request("INVENTED", "/health")
    samples = await exposed(house)
    heartbeat = {"method": "POST", "route": "/workers/{worker_id}/heartbeat"}
    assert value(samples, "legion_http_requests_total", status="200", **heartbeat) == 3
    assert value(samples, "legion_http_request_seconds_count", **heartbeat) == 3
    assert value(samples, "legion_http_requests_total", status="404", method="GET", route="none") == 1
    assert value(samples, "legion_http_requests_total", status="405", method="other", route="/health") == 1
    assert not any(member.worker_id in text for _, labels in samples for _, text in labels)


async def test_the_server_says_how_it_is(house: Any, settings: Settings) -> None:
    samples = await exposed(house)
    assert value(samples, "legion_leader") == 1
    assert value(samples, "legion_ready") == 1
    assert 0 < value(samples, "legion_disk_free_bytes") < value(samples, "legion_disk_bytes")
    assert value(samples, "legion_certificate_ends_at_seconds") > house.clock.now + 86400
    assert value(samples, "legion_database_transaction_seconds_count", kind="write") > 0
    assert value(samples, "process_resident_memory_bytes") > 2**20


async def test_errors_of_the_database_are_counted(house: Any) -> None:
    with pytest.raises(Exception, match="cannot be used"):
        async with house.backend.database.reading() as connection:
            await connection.exec_driver_sql("SELECT * FROM nothing")
    assert value(await exposed(house), "legion_database_errors_total") == 1


async def test_networks_that_the_operator_names_need_no_token(
    settings: Settings, clock: Any, open_house: Callable[..., Any]
) -> None:
    named = settings.model_copy(update={"metrics_from": Settings(metrics_from="192.0.2.0/24").metrics_from})  # type: ignore[arg-type]
    house, close = await open_house(named, clock)
    for address, status in (("192.0.2.9", 200), ("::ffff:192.0.2.9", 200), ("192.0.3.9", 401), ("not an address", 401)):
        transport = httpx.ASGITransport(house.app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            assert (await http.get("/metrics/server")).status_code == status, address
            # A token that is shown is looked at, wherever it comes from.
            wrong = {"Authorization": "Bearer nobody"}
            assert (await http.get("/metrics/server", headers=wrong)).status_code == 401
    await close()


def dashboards_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def documented_expressions() -> list[str]:
    _, _, below = OPERATIONS.read_text(encoding="utf-8").partition("| expression | what it means |")
    return [line.split("`")[1].replace("\\|", "|") for line in below.split("\n\n")[0].splitlines() if "`" in line]


def parts(expression: str) -> tuple[set[str], set[str]]:
    """The metrics and the labels that an expression names."""
    labels = {name for inner in re.findall(r"\{(.*?)\}(?=[\[\s)]|$)", expression) for name in matched(inner)}
    labels |= {name.strip() for inner in re.findall(r"\bby \((.*?)\)", expression) for name in inner.split(",")}
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)", "", bare)
    return {word for word in re.findall(r"\b[a-z_]\w*", bare) if word not in PROMQL}, labels


def matched(inner: str) -> list[str]:
    return re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', inner)


@pytest.fixture
async def samples_of_a_run(house: Any) -> dict[Sample, float]:
    await house.start(2, cluster={"policy": "solo"})
    house.backend.coordinator.state.rounds.counters.refused["late"] = 1
    return await exposed(house)


async def test_dashboard_and_alerts_ask_for_what_there_is(samples_of_a_run: dict[Sample, float]) -> None:
    names = {name for name, _ in samples_of_a_run} | LATER
    labels = {label for _, pairs in samples_of_a_run for label, _ in pairs} | ADDED_BY_PROMETHEUS
    asked = [*dashboards_expressions(), *documented_expressions()]
    assert len(asked) > 45
    for expression in asked:
        wanted, by = parts(expression)
        assert wanted, expression
        assert wanted <= names, (expression, wanted - names)
        assert by <= labels, (expression, by - labels)


def test_what_comes_later_is_in_the_code() -> None:
    source = (ROOT / "legion_server/api/metrics.py").read_text(encoding="utf-8")
    for name in LATER - {"legion_rounds_round_s"}:
        assert f'"{name.removeprefix("legion_")}"' in source
    assert "round_s:" in (ROOT / "shared/legion/counters.py").read_text(encoding="utf-8")


def test_every_panel_has_a_place_of_its_own() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
