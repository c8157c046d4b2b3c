"""The server's doctor: a healthy server has nothing, and everything that can be wrong is found and said."""

import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from legion_server.auth.ca import open_authority
from legion_server.doctor import checks
from legion_server.doctor.checks import DAY_S, examine

POSTGRES = os.environ.get("LEGION_TEST_POSTGRES_URL")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("LEGION_")} | {"OMP_NUM_THREADS": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "legion_server.cli", *arguments]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LEGION_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LEGION_HOST", "127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "server"


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(**environment: str) -> subprocess.Popen[str]:
        options = ("--data-dir", str(folder), "--host", "127.0.0.1", "--port", "0", "--log-level", "warning")
        process = subprocess.Popen(
            command("serve", *options), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT | environment
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening")
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


async def told(folder: Path, **given: Any) -> dict[str, tuple[str, str]]:
    """By name: state, and what was found."""
    found = await examine(data_dir=folder, **{"port": free_port(), **given})
    assert all(bool(check.advice) for check in found if check.state == "problem")
    return {check.name: (check.state, check.found) for check in found}


def problems(found: dict[str, tuple[str, str]]) -> set[str]:
    return {name for name, (state, _) in found.items() if state == "problem"}


def ask(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("doctor", "--data-dir", str(folder), *options),
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"LEGION_HOST": "127.0.0.1"} | environment,
        timeout=60,
    )


async def test_before_the_first_start_nothing_is_wrong_and_nothing_is_made(folder: Path) -> None:
    found = await told(folder)
    assert not problems(found)
    assert found["server"][1].startswith("none runs; port")
    assert folder.name not in os.listdir(folder.parent)  # noqa: PTH208  nothing waits here


def test_a_server_that_runs_is_healthy(serve: Callable[..., Any], folder: Path) -> None:
    serve()
    done = ask(folder, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["healthy"] is True
    found = {check["name"]: check for check in answer["checks"]}
    assert found["server"]["state"] == found["way in"]["state"] == found["certificate"]["state"] == "ok"
    assert "open, at most" in found["open files"]["found"]
    assert found["database"]["found"].startswith("SQLite")
    people = ask(folder)
    assert "ok      certificate: good for" in people.stdout
    assert "PROBLEM" not in people.stdout


def test_a_server_that_was_killed_and_too_few_open_files(serve: Callable[..., Any], folder: Path) -> None:
    process = serve()
    most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (1024, most[1]))
    limited = ask(folder)
    assert limited.returncode == 3
    assert "PROBLEM open files: the server has" in limited.stdout
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = ask(folder)
    assert done.returncode == 3
    assert "PROBLEM server: the server at https://127.0.0.1:" in done.stdout
    assert "        -> If it was killed, start it again" in done.stdout


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("LEGION_PORT", "many", "settings"),
        ("LEGION_PUBLIC_HOST", " ", "settings"),
        ("LEGION_TRUSTED_PROXIES", "0.0.0.0/0", "proxies"),
        ("LEGION_DATABASE_URL", "mysql://legion@localhost/legion", "database"),
        ("LEGION_DATABASE_URL", "postgresql+psycopg://legion@127.0.0.1:1/legion", "database"),
        ("LEGION_DATABASE_URL", "sqlite+aiosqlite://", "database"),
        ("LEGION_BLOBS_URL", "nosuch://bucket", "updates"),
    ],
)
def test_settings_that_cannot_work(folder: Path, variable: str, value: str, name: str) -> None:
    done = ask(folder, **{variable: value})
    assert done.returncode == 3, done.stdout
    assert f"PROBLEM {name}: " in done.stdout
    assert "        -> " in done.stdout
    assert not done.stderr


async def test_folder_port_and_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_authority(folder.parent, time.time())
    (folder.parent / "ca-key.pem").chmod(0o644)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        monkeypatch.setattr(checks, "LEAST_FREE_BYTES", 2**62)
        found = await told(folder.parent, port=taken.getsockname()[1])
    assert problems(found) == {"data folder", "server", "disk"}
    assert "ca-key.pem" in found["data folder"][1]
    assert "in use" in found["server"][1]
    assert "data folder" in problems(await told(folder.parent / "ca.pem" / "below"))


def stopped(serve: Callable[..., Any]) -> None:
    process = serve()
    process.send_signal(signal.SIGTERM)
    process.wait()


async def test_databases_that_are_newer_older_or_damaged(serve: Callable[..., Any], folder: Path) -> None:
    stopped(serve)
    assert not problems(await told(folder))
    path = folder / "legion.db"
    for version, state in (("0001", "ok"), ("9999", "problem")):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        found = await told(folder)
        assert found["database"][0] == state
        assert version in found["database"][1]
    before = path.read_bytes()
    path.write_bytes(before[:4096] + b"\xff" * (len(before) - 4096))
    assert "database" in problems(await told(folder))


async def test_a_clock_that_went_wrong(serve: Callable[..., Any], folder: Path) -> None:
    stopped(serve)
    with closing(sqlite3.connect(folder / "legion.db")) as connection, connection:
        connection.execute("UPDATE events SET at = at + 7200")
    found = await told(folder)
    assert problems(found) == {"clock"}
    assert "7200 s in the future" in found["clock"][1] or "7199 s" in found["clock"][1]


async def test_certificates_that_end_or_lack_a_name(
    serve: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(serve)
    found = await told(folder, public_host="legion.example.org")
    assert problems(found) == {"certificate"}
    assert "legion.example.org" in found["certificate"][1]
    now = time.time()
    monkeypatch.setattr(checks._certificate, "__defaults__", (lambda: now + 380 * DAY_S,))
    found = await told(folder)
    assert problems(found) == {"certificate"}
    assert "ends in" in found["certificate"][1]
    monkeypatch.setattr(checks._certificate, "__defaults__", (lambda: now - 10 * DAY_S,))
    assert problems(await told(folder)) == {"certificate", "authority"}


@pytest.mark.skipif(POSTGRES is None, reason="LEGION_TEST_POSTGRES_URL is not set")
async def test_postgres(folder: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any]) -> None:
    schema = f"test_doctor_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    engine = sa.create_engine(POSTGRES or "")
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    engine.dispose()
    own = sa.make_url(POSTGRES or "").update_query_dict({"options": f"-csearch_path={schema}"})
    url = own.render_as_string(hide_password=False)
    monkeypatch.setenv("LEGION_DATABASE_URL", url)
    found = await told(folder)
    assert not problems(found)
    assert "made at the first start" in found["database"][1]
    serve(LEGION_DATABASE_URL=url)
    found = await told(folder)
    assert not problems(found)
    assert "PostgreSQL" in found["database"][1]
    assert found["clock"][0] == "ok"
    monkeypatch.setattr("legion_server.doctor.database.MOST_SKEW_S", -1.0)
    assert "clock" in problems(await told(folder))
