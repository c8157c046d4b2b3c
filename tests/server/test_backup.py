"""Backups of a real server that runs on, and another one that goes on from them."""

import os
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from click.testing import Result
from typer.testing import CliRunner

from legion.errors import LegionError
from legion_server.backup_command import CheckFailed
from legion_server.cli import app

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("LEGION_")} | {"OMP_NUM_THREADS": "1"}
POSTGRES = os.environ.get("LEGION_TEST_POSTGRES_URL")
COUNTED = (
    "INSERT INTO credit_lines (run_id, round, worker_id, tokens, mflop, at, moment) VALUES ('r', 1, 'w', 5, 7, 1, 1)"
)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@contextmanager
def server(folder: Path) -> Iterator[httpx.Client]:
    options = ["serve", "--data-dir", str(folder), "--host", "127.0.0.1", "--port", "0"]
    command = [sys.executable, "-m", "legion_server.cli", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[2])
        headers = {"Authorization": f"Bearer {(folder / 'admin-token').read_text()}"}
        base_url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=base_url, headers=headers, trust_env=False, timeout=60) as http:
                yield http
        finally:
            process.terminate()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """The backup of data folder `s`, taken while its server ran."""
    folder = tmp_path / "s"
    with server(folder) as http:
        assert http.put("/training/config", json={"steps": 77}).status_code == 200
        assert http.post("/invites", json={}).status_code == 201
        done = command("backup", tmp_path / "b.tar", "--data-dir", folder)
        assert done.exit_code == 0, done.output
    return tmp_path / "b.tar"


def invites(folder: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "legion.db")) as database:
        return database.execute("SELECT * FROM invites").fetchall()


def test_a_server_goes_on_from_a_backup(filled: Path, tmp_path: Path) -> None:
    assert filled.stat().st_mode & 0o777 == 0o600
    again = tmp_path / "again"
    assert command("restore", filled, "--data-dir", again).exit_code == 0
    for name in ("ca.pem", "ca-key.pem", "admin-token"):
        assert (again / name).read_bytes() == (tmp_path / "s" / name).read_bytes()
    assert (again / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    assert invites(again) == invites(tmp_path / "s") != []
    checked = command("check", "--data-dir", again)
    assert checked.exit_code == 0, checked.output
    with server(again) as http:
        assert http.get("/training/config").json()["steps"] == 77
        assert http.post("/invites", json={}).status_code == 201


def test_a_backup_of_sqlite_moves_to_postgresql(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if POSTGRES is None:
        pytest.skip("LEGION_TEST_POSTGRES_URL is not set")
    engine = sa.create_engine(POSTGRES)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA IF EXISTS test_backup CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA test_backup"))
    engine.dispose()
    url = sa.make_url(POSTGRES).update_query_dict({"options": "-csearch_path=test_backup"})
    monkeypatch.setenv("LEGION_DATABASE_URL", url.render_as_string(hide_password=False))
    moved, back = tmp_path / "moved", tmp_path / "back"
    done = command("restore", filled, "--data-dir", moved)
    assert done.exit_code == 0, done.exception
    assert command("check", "--data-dir", moved).exit_code == 0
    assert command("backup", tmp_path / "p.tar", "--data-dir", moved).exit_code == 0
    refused = command("restore", filled, "--data-dir", tmp_path / "other").exception
    assert isinstance(refused, LegionError)
    assert "the database is not empty" in str(refused)
    monkeypatch.delenv("LEGION_DATABASE_URL")
    assert command("restore", tmp_path / "p.tar", "--data-dir", back).exit_code == 0
    assert invites(back) == invites(tmp_path / "s")


def test_a_restore_leaves_what_is_there_alone(filled: Path, tmp_path: Path) -> None:
    refused = command("restore", filled, "--data-dir", tmp_path / "s").exception
    assert isinstance(refused, LegionError)
    assert (refused.exit_code, "is not empty" in str(refused)) == (42, True)
    refused = command("backup", filled, "--data-dir", tmp_path / "s").exception
    assert isinstance(refused, LegionError)
    assert (refused.exit_code, "exists already" in str(refused)) == (2, True)


@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
def test_half_a_backup_restores_nothing(filled: Path, tmp_path: Path, kept: float) -> None:
    content = filled.read_bytes()
    filled.write_bytes(content[: int(len(content) * kept)])
    refused = command("restore", filled, "--data-dir", tmp_path / "again").exception
    assert isinstance(refused, LegionError)
    assert (refused.exit_code, "is no whole backup" in str(refused)) == (2, True)
    assert list((tmp_path / "again").iterdir()) == []


def test_a_changed_backup_restores_nothing(filled: Path, tmp_path: Path) -> None:
    with tarfile.open(filled) as tar:
        member = tar.getmember("files/ca.pem")
    with filled.open("r+b") as file:
        file.seek(member.offset_data)
        file.write(b"x")
    refused = command("restore", filled, "--data-dir", tmp_path / "again").exception
    assert isinstance(refused, LegionError)
    assert "is no whole backup" in str(refused)


def test_check_finds_credit_that_boards_do_not_have(filled: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "s" / "legion.db")) as database:
        database.execute(COUNTED)
        database.commit()
    found = command("check", "--data-dir", tmp_path / "s")
    assert isinstance(found.exception, CheckFailed)
    assert "credit: " in found.output
    assert "the ledger says 7 MFLOP" in found.output


def test_check_finds_lost_keys_and_rows_without_what_they_name(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "s" / "ca-key.pem").unlink()
    with closing(sqlite3.connect(tmp_path / "s" / "legion.db")) as database:
        database.execute("INSERT INTO invite_uses VALUES ('nowhere', 'w')")
        database.commit()
    found = command("check", "--data-dir", tmp_path / "s")
    assert isinstance(found.exception, CheckFailed)
    assert "ca-key.pem is missing" in found.output
    assert "1 rows of invite_uses name a row of invites that is not there" in found.output


def test_a_folder_of_no_server_is_said(tmp_path: Path) -> None:
    refused = command("check", "--data-dir", tmp_path).exception
    assert isinstance(refused, LegionError)
    assert "no data folder" in str(refused)
    assert not (tmp_path / "legion.db").exists()
