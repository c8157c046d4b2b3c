"""No secret is in a log, an error or a page of the operator's: a real server at level debug, asked for all of them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from legion.identity import Invite
from legion.keys import new_key, signing_request
from legion.messages import PROTOCOL

POSTGRES = os.environ.get("LEGION_TEST_POSTGRES_URL")
ADMIN_TOKEN = "the-admins-own-token-0123456789"
PASSWORD = "password-of-the-database-77"
AWS_KEY = "aws-secret-access-key-of-the-bucket"
HARDWARE = {"os": "x", "cpu_count": 1, "memory_bytes": 2**30, "free_disk_bytes": 1, "legion_version": "0"}
PLAIN = {k: v for k, v in os.environ.items() if not k.startswith("LEGION_")} | {"OMP_NUM_THREADS": "1"}
ENVIRONMENT = PLAIN | {
    "LEGION_ADMIN_TOKEN": ADMIN_TOKEN,
    "AWS_SECRET_ACCESS_KEY": AWS_KEY,
}


def database_url() -> str | None:
    """PostgreSQL lets the test in whatever the password is."""
    if POSTGRES is None:
        return None
    schema = f"test_secrets_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    engine = sa.create_engine(POSTGRES)
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    engine.dispose()
    own = sa.make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}"})
    return own.set(password=PASSWORD).render_as_string(hide_password=False)


def serve(folder: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        *("-m", "legion_server.cli", "serve", "--host", "127.0.0.1", "--port", "0", "--log-level", "debug"),
        *("--data-dir", str(folder), *options),
    ]


class Asked:
    """A server process, and every secret that was shown to it or given by it."""

    def __init__(self, folder: Path, log: Path, *options: str) -> None:
        self.log = log
        url = database_url()
        environment = ENVIRONMENT | ({"LEGION_DATABASE_URL": url} if url else {})
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                serve(folder, *options), stdout=subprocess.PIPE, stderr=file, text=True, env=environment
            )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.port = int(self.said.split()[2])
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False)
        self.secrets = {"admin token": ADMIN_TOKEN, "database password": PASSWORD, "bucket key": AWS_KEY}
        self.pages: list[str] = []

    def ask(self, method: str, path: str, status: int, token: str = "", **arguments: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        reply = self.http.request(method, path, headers=headers | arguments.pop("headers", {}), **arguments)
        assert reply.status_code == status, reply.text
        if status >= 400:
            self.pages.append(reply.text)
        return reply

    def become_a_worker(self) -> str:
        invite = self.ask("POST", "/invites", 201, ADMIN_TOKEN, json={}).json()["invite"]
        self.secrets["invite"] = Invite.parse(invite).token
        body = {"protocol": PROTOCOL, "token": self.secrets["invite"], "name": "pc", "hardware": HARDWARE}
        # Wrong in every way first: an error must not repeat what it was told.
        self.ask("POST", "/workers", 422, json=body | {"hardware": self.secrets["invite"]})
        self.ask("POST", "/workers", 422, json=body | {"csr_pem": self.secrets["invite"]})
        key = new_key()
        worker = self.ask("POST", "/workers", 201, json=body | {"csr_pem": signing_request(key)}).json()
        self.ask("POST", "/workers", 403, json=body | {"csr_pem": signing_request(new_key())})
        self.secrets["worker token"] = token = worker["token"]
        beat = f"/workers/{worker['worker_id']}/heartbeat"
        self.ask("POST", beat, 200, token, json={"protocol": PROTOCOL, "state": "preparing"})
        self.ask("POST", beat, 422, token, json={"protocol": PROTOCOL, "state": token})
        self.ask("GET", "/account", 401, token + "x")
        return str(token)

    def have_an_account(self, token: str) -> str:
        claimed = self.ask("POST", "/account", 201, token, json={"nickname": "Ada"}).json()
        self.secrets["recovery phrase"] = claimed["recovery_phrase"]
        self.secrets["link code"] = code = self.ask("POST", "/account/link-code", 201, token).json()["code"]
        self.ask("POST", "/account/link", 404, token, json={"secret": claimed["recovery_phrase"] + " x"})
        self.ask("POST", "/account/link", 422, token, json={"secret": [code]})
        link = self.ask("POST", "/account/sign-in", 201, token).json()["url"]
        self.secrets["one-time link"] = link.rsplit("/", 1)[1]
        return str(link)

    def browse(self, link: str) -> str:
        """The operator's page of the log, as it is in the end."""
        path = link.removeprefix(str(self.http.base_url).rstrip("/"))
        self._hang_up(path)
        self.ask("GET", path, 200)
        self.ask("POST", path, 422, json={})
        self.secrets["volunteer's session"] = self._session(self.ask("POST", path, 303, data={"csrf": ""}))
        self._token_of_forms(self.ask("GET", "/me", 200).text)
        self.ask("POST", "/me/forget", 403, data={"csrf": "wrong"})
        self.http.cookies.clear()
        self.ask("POST", "/sign-in", 401, data={"token": "wrong"})
        self.secrets["operator's session"] = self._session(
            self.ask("POST", "/sign-in", 303, data={"token": ADMIN_TOKEN})
        )
        self._token_of_forms(self.ask("GET", "/admin/invites", 200).text)
        self.pages += [
            self.ask("GET", page, 200).text for page in ("/admin/storage", "/admin/audit", "/status", "/admin")
        ]
        return str(self.ask("GET", "/admin/logs?level=debug", 200).text)

    def stream(self, token: str) -> None:
        with connect(f"ws://127.0.0.1:{self.port}/ws/events?after=0&token={token}") as stream:
            assert json.loads(stream.recv())["number"] == 1
        with pytest.raises(InvalidStatus), connect(f"ws://127.0.0.1:{self.port}/ws/events?token={token}x"):
            pass

    def _hang_up(self, path: str) -> None:
        """In the middle of a form: the log says so."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
        head += "Content-Type: application/x-www-form-urlencoded\r\n\r\ncsrf="
        with socket.create_connection(("127.0.0.1", self.port)) as peer:
            peer.sendall(head.encode())

    @staticmethod
    def _session(reply: httpx.Response) -> str:
        return reply.headers["set-cookie"].split(";")[0].split("=", 1)[1]

    def _token_of_forms(self, page: str) -> None:
        found = re.search(r'name="csrf" value="(\w+)"', page)
        assert found is not None
        self.secrets[f"form's token {len(self.secrets)}"] = found[1]

    def end(self) -> str:
        """All that the process has said."""
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return self.said + rest + self.log.read_text(encoding="utf-8")


Start = Callable[..., Asked]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Asked] = []

    def begin(*options: str) -> Asked:
        started.append(Asked(tmp_path / "server", tmp_path / "log", *options))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.mark.parametrize("options", [(), ("--json-logs",)], ids=["text", "json"])
def test_nothing_that_a_server_says_holds_a_secret(start: Start, tmp_path: Path, options: tuple[str, ...]) -> None:
    server = start(*options)
    token = server.become_a_worker()
    link = server.have_an_account(token)
    server.stream(token)
    log_page = server.browse(link)
    said = server.end()
    assert "hung up" in said
    assert "worker" in said
    keys = {path.name: path.read_text() for path in (tmp_path / "server").glob("*key*.pem")}
    assert keys
    own_forms = re.compile(r'name="csrf" value="\w+"')
    places = {"log": said, "page of the log": own_forms.sub("", log_page)}
    places |= {f"answer {number}": own_forms.sub("", text) for number, text in enumerate(server.pages)}
    for place, text in places.items():
        for name, secret in server.secrets.items():
            assert len(secret) >= 8, name
            assert secret not in text, f"the {place} holds the {name}"
        assert "PRIVATE KEY" not in text
    if options:
        records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        assert all(record.keys() >= {"time", "level", "name", "event"} for record in records)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://legion:{PASSWORD}@127.0.0.1:1/legion",
        f"postgresql+psycopg://legion:{PASSWORD}@nowhere.invalid/legion",
        f"postgresql+psycopg://legion:{PASSWORD}@127.0.0.1:port/legion",
        f"postgres://legion:{PASSWORD}@127.0.0.1/legion",
        f"mysql://legion:{PASSWORD}@127.0.0.1/legion",
        f"legion:{PASSWORD}@127.0.0.1",
    ],
)
def test_a_database_that_cannot_be_used_is_said_without_its_password(tmp_path: Path, url: str) -> None:
    environment = PLAIN | {"LEGION_DATABASE_URL": url}
    done = subprocess.run(serve(tmp_path / "server"), capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode in (2, 40), done.stderr
    assert "database" in done.stderr
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_a_setting_that_cannot_be_used_is_said_without_its_secret(tmp_path: Path) -> None:
    for name, value in (("LEGION_ADMIN_TOKEN", "too-short-1"), ("LEGION_BLOBS_URL", f"nosuch://key:{PASSWORD}@host/b")):
        environment = PLAIN | {name: value}
        done = subprocess.run(serve(tmp_path / name), capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == 2, done.stderr
        assert value not in done.stderr
        assert PASSWORD not in done.stderr
