"""The description is complete, and the server keeps to it whatever it is sent."""

from typing import Any

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

from legion_server.app import create_app

ADMIN = {"Authorization": "Bearer an-admin-token-for-tests"}
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


ROUTES = {
    ("GET", "/health"),
    ("GET", "/ca.pem"),
    ("GET", "/workers"),
    ("POST", "/workers"),
    ("POST", "/workers/{worker_id}/heartbeat"),
    ("POST", "/workers/{worker_id}/certificate"),
    ("DELETE", "/workers/{worker_id}"),
    ("POST", "/invites"),
    ("GET", "/training/config"),
    ("PUT", "/training/config"),
    ("GET", "/training/plan"),
    ("POST", "/runs/resume"),
    ("GET", "/metrics"),
    ("POST", "/metrics"),
    ("GET", "/checkpoints"),
    ("GET", "/checkpoints/{step}"),
    ("PUT", "/checkpoints/{step}/slices/{rank}"),
    ("GET", "/checkpoints/{step}/slices/{rank}"),
    ("GET", "/checkpoints/{step}/files/{name}"),
    ("GET", "/data/manifest"),
    ("GET", "/data/{sha256}"),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from legion_server.settings import Settings

    folder = tmp_path_factory.mktemp("openapi")
    app = create_app(Settings(data_dir=folder, host="127.0.0.1", admin_token="an-admin-token-for-tests"))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def api(client: TestClient) -> Any:
    return schemathesis.openapi.from_dict(client.get("/openapi.json").json())


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
def test_whatever_is_sent(api: Any, client: TestClient, method: str, path: str, mode: GenerationMode) -> None:
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(api[path][method].as_strategy(generation_mode=mode))
    def keeps_its_word(case: Any) -> None:
        request = case.as_transport_kwargs(base_url="http://testserver", headers=ADMIN)
        request.pop("cookies", None)
        if isinstance(request.get("data"), bytes):
            request["content"] = request.pop("data")
        reply = client.request(**request)
        assert reply.status_code != 500, reply.text
        case.validate_response(schemathesis.Response.from_any(reply), checks=CHECKS)

    try:
        keeps_its_word()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # a request without parts cannot be wrong


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
