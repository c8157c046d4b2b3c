"""Servers over one PostgreSQL when things go wrong: starts at once, lost connections, kills under load."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from legion.errors import StorageFailed
from legion_server.backend import locked
from tests.server.nodes.conftest import Node, Start, Worker, eventually


def answers(node: Node) -> bool:
    return node.http.get("/health").status_code == 200


def test_servers_that_start_at_once_make_one_authority_and_one_run(start: Start) -> None:
    with ThreadPoolExecutor(3) as pool:
        nodes = list(pool.map(lambda _: start(), range(3)))
    for node in nodes:
        eventually(lambda node=node: answers(node))
    assert len({node.http.get("/health").json()["run_id"] for node in nodes}) == 1
    assert len({node.http.get("/ca.pem").text for node in nodes}) == 1
    assert [Worker(node).beat(nodes[0]).status_code for node in nodes] == [200] * 3


def test_a_leader_whose_session_is_ended_does_not_lead(start: Start, database_url: str) -> None:
    first, second = start(), start()
    worker = Worker(first)
    engine = sa.create_engine(database_url)
    for number in (2, 3, 4):
        with engine.begin() as connection:
            holders = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = "
            connection.execute(sa.text(f"{holders} (hashtext(current_schema())::bigint & 4294967295)::oid"))
        eventually(lambda number=number: term(engine) == number)
        eventually(lambda: [worker.beat(node).status_code for node in (first, second)] == [200, 200])
    engine.dispose()
    assert first.http.get("/workers").json() == second.http.get("/workers").json()


def term(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT term FROM leadership")).scalar_one())


def test_the_folder_of_several_servers_is_no_server_of_its_own(start: Start, tmp_path: Path) -> None:
    start()
    with pytest.raises(StorageFailed, match="in use by another server"), locked(tmp_path / "s"):
        pass


def test_nothing_that_was_acknowledged_is_lost_under_kills(start: Start) -> None:
    """Workers enrol at whoever answers, while leaders are killed."""
    nodes, enrolled = [start(), start()], []
    done = threading.Event()

    def enrol() -> None:
        while not done.is_set():
            for node in nodes:
                try:
                    enrolled.append(Worker(node))
                except (httpx.TransportError, AssertionError, KeyError, RuntimeError):
                    continue  # not acknowledged

    with ThreadPoolExecutor(1) as pool:
        enrolling = pool.submit(enrol)
        for _ in range(3):
            before = len(enrolled)
            eventually(lambda before=before: len(enrolled) >= before + 5)
            killed = nodes.pop(0)
            killed.process.send_signal(signal.SIGKILL)
            killed.process.communicate()
            eventually(lambda: answers(nodes[0]), within_s=10)
            nodes.append(start())
        done.set()
        enrolling.result()
    assert [worker.beat(nodes[-1]).status_code for worker in enrolled] == [200] * len(enrolled)


def test_what_a_caller_sends_halfway_is_no_load_for_long(start: Start) -> None:
    first, second = start(), start()
    worker = Worker(second)

    def broken() -> bytes:
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        second.http.post(
            "/network/probe",
            content=(os.urandom(1000) if n < 3 else broken() for n in range(4)),
            headers=worker.headers,
        )
    assert [worker.beat(node).status_code for node in (first, second)] == [200, 200]
