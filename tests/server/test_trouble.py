"""What must not pass silently: each ends in one sentence and its exit code, or in an answer that says what is wrong."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from legion_server.auth.ca import open_authority
from legion_server.settings import Settings

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("LEGION_")} | {"OMP_NUM_THREADS": "1"}
POSTGRES = os.environ.get("LEGION_TEST_POSTGRES_URL")
PASSWORD = "a-secret-password"
HERE = f"postgresql+psycopg://somebody:{PASSWORD}@"


def serve(folder: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "legion_server.cli", "serve", "--data-dir", str(folder), "--host", "127.0.0.1"]
    return subprocess.Popen(
        [*command, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | environment,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=60)
    assert PASSWORD not in out + err
    assert "Traceback" not in err
    return process.returncode, err.splitlines()[-1]


class Running:
    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[2])
        headers = {"Authorization": f"Bearer {(folder / 'admin-token').read_text()}"}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=30)

    def invites(self) -> httpx.Response:
        """A request that writes."""
        return self.http.post("/invites", json={})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(folder: Path = tmp_path / "s") -> Running:
        started.append(Running(serve(folder), folder))
        return started[-1]

    yield start
    for server in started:
        server.http.close()
        assert server.process.stdout is not None
        if not server.process.stdout.closed:
            server.process.kill()
            server.process.communicate()


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        (f"{HERE}127.0.0.1:1/x", 40, "Connection refused"),
        (f"{HERE}nowhere.invalid/x", 40, "failed to resolve host 'nowhere.invalid'"),
        (f"postgresql+asyncpg://somebody:{PASSWORD}@host/x", 2, "No module named 'asyncpg'"),
        (f"postgres://somebody:{PASSWORD}@host/x", 2, "dialects:postgres"),
        (f"{HERE}host:{PASSWORD}/x", 2, "its port is not a number"),
        (f"postgresql+psycopg://somebody:{PASSWORD}@{PASSWORD}@host/x", 2, "there are several @ before its host"),
        (f"sqlite:///{PASSWORD}", 2, "async driver"),
        (PASSWORD, 2, "it is not of the form of one"),
    ],
)
def test_a_wrong_database_url_is_one_sentence(tmp_path: Path, url: str, code: int, said: str) -> None:
    found, sentence = ended(serve(tmp_path, LEGION_DATABASE_URL=url))
    assert found == code
    assert sentence.startswith("legion-server: the database")
    assert said in sentence
    assert PASSWORD not in repr(Settings(database_url=url))


def test_a_missing_database_is_one_sentence(tmp_path: Path) -> None:
    if POSTGRES is None:
        pytest.skip("LEGION_TEST_POSTGRES_URL is not set")
    url = sa.make_url(POSTGRES).set(database="legion_not_there", password=PASSWORD)
    code, said = ended(serve(tmp_path, LEGION_DATABASE_URL=url.render_as_string(hide_password=False)))
    assert code == 40
    assert 'database "legion_not_there" does not exist' in said
    assert "LEGION_DATABASE_URL: host, port, user, password and database" in said


def test_a_wrong_password_is_one_sentence(tmp_path: Path) -> None:
    """A socket that speaks as much of PostgreSQL's protocol as it takes to ask for a password, and refuse it."""
    heard = []

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(8)  # wants TLS
            connection.sendall(b"N")
            connection.recv(4096)
            connection.sendall(b"R\x00\x00\x00\x08\x00\x00\x00\x03")  # in clear
            heard.append(connection.recv(4096))
            fields = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "somebody"\0\0'
            connection.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=[listener])
        thread.start()
        url = f"{HERE}127.0.0.1:{listener.getsockname()[1]}/x"
        code, said = ended(serve(tmp_path, LEGION_DATABASE_URL=url))
        thread.join()
    assert PASSWORD.encode() in heard[0]
    assert code == 40
    assert 'password authentication failed for user "somebody"' in said


def test_a_database_of_a_newer_schema_is_one_sentence(run: Callable[..., Running], tmp_path: Path) -> None:
    run().process.terminate()
    stopped(tmp_path / "s")
    with closing(sqlite3.connect(tmp_path / "s" / "legion.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    code, said = ended(serve(tmp_path / "s"))
    assert code == 42
    assert "has schema 9999, which this version of Legion does not know" in said


def stopped(folder: Path) -> None:
    while (folder / "listening.json").exists():
        pass


def test_a_database_that_another_program_locks(run: Callable[..., Running], tmp_path: Path) -> None:
    server = run()
    assert server.invites().status_code == 201
    with closing(sqlite3.connect(tmp_path / "s" / "legion.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = server.invites()
        assert (refused.status_code, refused.json()["slug"]) == (503, "unavailable")
        assert refused.json()["detail"] == "another program keeps the database locked"
        assert refused.json()["retryable"]
        assert server.http.get("/health").status_code == 200
        other.execute("ROLLBACK")
        assert server.invites().status_code == 201
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0
        other.execute("BEGIN IMMEDIATE")
        code, said = ended(serve(tmp_path / "s"))
        assert (code, "another program keeps the database locked. End the other program" in said) == (40, True)


def overwrite(path: Path, start: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(size))


def with_rows(path: Path) -> None:
    """So that its tables have pages of their own, in the middle of the file."""
    with closing(sqlite3.connect(path)) as database:
        rows = ((f"{number:064}", 1, 1.0) for number in range(20_000))
        database.executemany("INSERT INTO invites (token_sha256, uses_left, expires_at) VALUES (?, ?, ?)", rows)
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def test_a_database_that_is_damaged_somewhere_is_found_at_the_start(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    run().process.terminate()
    stopped(tmp_path / "s")
    path = tmp_path / "s" / "legion.db"
    with_rows(path)
    overwrite(path, path.stat().st_size // 2 // 4096 * 4096, 4096)
    code, said = ended(serve(tmp_path / "s"))
    assert code == 42
    assert said.startswith("legion-server: the database ")
    assert said.endswith("restore a backup into another folder: legion-server restore.")


def test_a_server_whose_database_gets_damaged_ends(run: Callable[..., Running], tmp_path: Path) -> None:
    server = run()
    path = tmp_path / "s" / "legion.db"
    with_rows(path)
    overwrite(path, 4096, path.stat().st_size - 4096)
    answers = []
    try:
        while server.process.poll() is None:
            answers.append(server.invites().status_code)
    except httpx.TransportError:
        pass
    assert 201 not in answers
    code, said = ended(server.process)
    assert code == 42
    assert "restore a backup into another folder" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("this needs the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))


def test_a_full_disk_is_said_and_gone_when_there_is_room(run: Callable[..., Running], small_disk: Path) -> None:
    server = run(small_disk)
    assert server.invites().status_code == 201
    ballast = small_disk / "ballast"
    fill(ballast)
    full = next(answer for _ in range(1000) if (answer := server.invites()).status_code != 201)
    assert (full.status_code, full.json()["slug"]) == (507, "storage-failed")
    assert "disk" in full.json()["detail"]
    ready = server.http.get("/health/ready")
    assert ready.status_code == 503
    assert "disk has 0 MiB left" in ready.json()["detail"]
    assert server.http.get("/health").status_code == 200
    ballast.unlink()
    change = {"steps": 5, "data": {"source": "distributed_dummy"}}
    assert server.invites().status_code == 201
    assert server.http.put("/training/config", json=change, timeout=60).status_code == 200
    server.process.kill()
    server.process.communicate()
    server.http.close()
    assert run(small_disk).http.get("/training/config").json()["steps"] == 5


def test_a_clock_before_the_authority_was_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    open_authority(tmp_path / "s", time.time() + 86_400)
    code, said = ended(serve(tmp_path / "s"))
    assert code == 46
    assert said.startswith("legion-server: this machine's clock says 20")
    assert "but the server's authority was made at 20" in said


def test_a_clock_behind_what_the_database_has_seen_is_said(run: Callable[..., Running], tmp_path: Path) -> None:
    run().process.terminate()
    stopped(tmp_path / "s")
    with closing(sqlite3.connect(tmp_path / "s" / "legion.db")) as database:
        database.execute("UPDATE events SET at = at + 5000")
        database.commit()
    server = run()
    server.process.terminate()
    assert server.process.wait(timeout=30) == 0
    assert server.process.stderr is not None
    assert "clock is behind what the database has seen, set it by_s=" in server.process.stderr.read()
