"""The description is complete, and the server keeps to it whatever it is sent."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from legion.keys import new_key, signing_request
from legion.messages import PROTOCOL
from legion_server.app import create_app
from legion_server.settings import Settings

EXAMPLES = int(os.environ.get("LEGION_TEST_EXAMPLES", "10"))  # of each route, right and wrong ones
SEARCH = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)
ADMIN_TOKEN = "an-admin-token-for-tests"
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


ROUTES = {
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/ca.pem"),
    ("GET", "/workers"),
    ("POST", "/workers"),
    ("POST", "/workers/{worker_id}/heartbeat"),
    ("POST", "/workers/{worker_id}/certificate"),
    ("GET", "/workers/{worker_id}/credit"),
    ("DELETE", "/workers/{worker_id}"),
    ("GET", "/account"),
    ("POST", "/account"),
    ("PATCH", "/account"),
    ("GET", "/account/data"),
    ("POST", "/account/forget"),
    ("POST", "/account/link-code"),
    ("POST", "/account/link"),
    ("POST", "/account/recovery"),
    ("DELETE", "/account/devices/{number}"),
    ("POST", "/account/sign-in"),
    ("POST", "/teams"),
    ("GET", "/teams/named"),
    ("GET", "/boards/teams/{team_id}"),
    ("PATCH", "/teams/{team_id}"),
    ("POST", "/teams/{team_id}/requests"),
    ("DELETE", "/teams/{team_id}/membership"),
    ("PUT", "/teams/{team_id}/members/{nickname}"),
    ("DELETE", "/teams/{team_id}/requests/{nickname}"),
    ("DELETE", "/teams/{team_id}/members/{nickname}"),
    ("GET", "/boards/{board}"),
    ("GET", "/boards/{board}/search"),
    ("GET", "/boards/volunteers/{nickname}"),
    ("GET", "/export/{board}.jsonl.gz"),
    ("POST", "/invites"),
    ("GET", "/training/config"),
    ("PUT", "/training/config"),
    ("GET", "/training/plan"),
    ("POST", "/runs/pause"),
    ("POST", "/runs/resume"),
    ("POST", "/runs/stop"),
    ("GET", "/runs"),
    ("POST", "/runs"),
    ("GET", "/runs/{run_id}"),
    ("PATCH", "/runs/{run_id}"),
    ("DELETE", "/runs/{run_id}"),
    ("GET", "/runs/{run_id}/checkpoint/{name}"),
    ("GET", "/training/rounds/plan"),
    ("GET", "/training/rounds"),
    ("GET", "/training/global_version"),
    ("POST", "/training/rounds/{round}/spans"),
    ("POST", "/training/rounds/{round}/handover"),
    ("POST", "/training/rounds/roots"),
    ("PUT", "/blobs/{sha256}"),
    ("GET", "/blobs/{sha256}"),
    ("GET", "/metrics"),
    ("GET", "/metrics/curve"),
    ("GET", "/metrics/server"),
    ("POST", "/network/probe"),
    ("POST", "/workers/{worker_id}/reachability"),
    ("GET", "/relays"),
    ("POST", "/relays"),
    ("POST", "/relays/{relay_id}/heartbeat"),
    ("POST", "/relays/{relay_id}/certificate"),
    ("GET", "/relays/enrolled"),
    ("GET", "/relays/{relay_id}/workers/{worker_id}"),
    ("DELETE", "/relays/{relay_id}"),
    ("GET", "/network/probe"),
    ("POST", "/network/links"),
    ("GET", "/network"),
    ("GET", "/network/clusters"),
    ("POST", "/metrics"),
    ("GET", "/checkpoints"),
    ("GET", "/checkpoints/{step}"),
    ("PUT", "/checkpoints/{step}/slices/{rank}"),
    ("GET", "/checkpoints/{step}/slices/{rank}"),
    ("GET", "/checkpoints/{step}/files/{name}"),
    ("GET", "/data/manifest"),
    ("GET", "/data/{sha256}"),
}


Connect = Callable[[], AbstractContextManager[TestClient]]

# The routes that do more for a member than to refuse it.
MEMBERS_ROUTES = [
    ("GET", "/account"),
    ("POST", "/account"),
    ("PATCH", "/account"),
    ("POST", "/account/forget"),
    ("POST", "/account/link-code"),
    ("POST", "/account/link"),
    ("POST", "/account/recovery"),
    ("POST", "/account/sign-in"),
    ("DELETE", "/account/devices/{number}"),
    ("POST", "/teams"),
    ("PATCH", "/teams/{team_id}"),
    ("POST", "/teams/{team_id}/requests"),
    ("DELETE", "/teams/{team_id}/membership"),
    ("PUT", "/teams/{team_id}/members/{nickname}"),
    ("POST", "/workers/{worker_id}/heartbeat"),
    ("POST", "/workers/{worker_id}/certificate"),
    ("POST", "/metrics"),
    ("POST", "/network/probe"),
    ("GET", "/relays"),
    ("POST", "/workers/{worker_id}/reachability"),
    ("GET", "/network/probe"),
    ("POST", "/network/links"),
    ("GET", "/network"),
    ("PUT", "/checkpoints/{step}/slices/{rank}"),
    ("GET", "/data/{sha256}"),
]
# And those that do more for a member of a run in rounds.
ROUNDS_ROUTES = [
    ("GET", "/training/rounds/plan"),
    ("GET", "/training/rounds"),
    ("GET", "/training/global_version"),
    ("POST", "/training/rounds/{round}/spans"),
    ("POST", "/training/rounds/{round}/handover"),
    ("POST", "/training/rounds/roots"),
    ("PUT", "/blobs/{sha256}"),
]


@pytest.fixture
def connect(tmp_path: Path) -> Connect:
    """A fresh server and a client that is its admin."""
    settings = Settings(data_dir=tmp_path / "server", host="127.0.0.1", admin_token=ADMIN_TOKEN)
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    return lambda: TestClient(create_app(settings), "http://localhost", raise_server_exceptions=False, headers=headers)


def become_a_member(client: TestClient, tmp_path: Path, **config: Any) -> None:
    """From now on the client is a worker in a run that trains."""
    (tmp_path / "text").write_text("All the world's a stage, and all the men and women merely players.\n" * 40)
    data = {"source": "text", "paths": [str(tmp_path / "text")], "seq_len": 16}
    assert client.put("/training/config", json={"data": data, "cluster": {"policy": "one"}} | config).status_code == 200
    token = httpx.URL(client.post("/invites", json={}).json()["invite"]).params["token"]
    hardware = {"os": "x", "cpu_count": 1, "memory_bytes": 2**30, "free_disk_bytes": 1, "legion_version": "0"}
    body = {"protocol": PROTOCOL, "token": token, "csr_pem": signing_request(new_key()), "name": "pc"}
    worker = client.post("/workers", json=body | {"hardware": hardware}).json()
    client.headers["Authorization"] = f"Bearer {worker['token']}"
    shape = {"units": [{"name": "u", "tensors": [{"name": "t", "shape": [5000]}]}]}
    beat = {"protocol": PROTOCOL, "state": "ready", "endpoint": {"host": "h", "port": 9}, "shape": shape}
    reply = client.post(f"/workers/{worker['worker_id']}/heartbeat", json=beat)
    assert reply.json()["phase"] == "training"


def keeps_its_word(client: TestClient, method: str, path: str, mode: GenerationMode) -> None:
    """Statuses, media types and bodies of the answers are those that the description names."""
    api = schemathesis.openapi.from_dict(client.get("/openapi.json").json())

    @settings(SEARCH)
    @given(api[path][method].as_strategy(generation_mode=mode))
    def whatever_is_sent(case: Any) -> None:
        request = case.as_transport_kwargs(base_url="http://localhost")
        request.pop("cookies", None)
        # As bytes: the client would refuse to send what a hostile one sends.
        request["headers"] = {k: str(v).encode("latin-1", "replace") for k, v in (request["headers"] or {}).items()}
        if isinstance(request.get("data"), bytes):
            request["content"] = request.pop("data")
        reply = client.request(**request)
        assert reply.status_code != 500, reply.text
        case.validate_response(schemathesis.Response.from_any(reply), checks=CHECKS)

    try:
        whatever_is_sent()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # a request without parts cannot be wrong


MODES = pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)


@MODES
@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
def test_whatever_an_admin_sends(connect: Connect, method: str, path: str, mode: GenerationMode) -> None:
    with connect() as client:
        keeps_its_word(client, method, path, mode)


@MODES
@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
def test_whatever_a_stranger_sends(connect: Connect, method: str, path: str, mode: GenerationMode) -> None:
    with connect() as client:
        del client.headers["Authorization"]
        keeps_its_word(client, method, path, mode)


@MODES
@pytest.mark.parametrize(("method", "path"), MEMBERS_ROUTES)
def test_whatever_a_member_sends(
    connect: Connect, tmp_path: Path, method: str, path: str, mode: GenerationMode
) -> None:
    with connect() as client:
        become_a_member(client, tmp_path)
        keeps_its_word(client, method, path, mode)


@MODES
@pytest.mark.parametrize(("method", "path"), ROUNDS_ROUTES)
def test_whatever_a_member_of_a_run_in_rounds_sends(
    connect: Connect, tmp_path: Path, method: str, path: str, mode: GenerationMode
) -> None:
    with connect() as client:
        become_a_member(client, tmp_path, cluster={"policy": "solo"})
        keeps_its_word(client, method, path, mode)


@pytest.fixture
def client(connect: Connect) -> Iterator[TestClient]:
    with connect() as client:
        yield client


def test_every_route_is_described(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == ROUTES


def test_every_operation_says_what_it_is_and_how_it_fails(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["schemas"]["Problem"]["properties"].keys() >= {"type", "title", "detail", "hint"}
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["tags"], (method, path)
            assert operation["description"], (method, path)
            if path == "/ca.pem":
                continue
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and status != "416":
                    reference = answer["content"]["application/problem+json"]["schema"]["$ref"]
                    assert reference == "#/components/schemas/Problem", (method, path, status)
