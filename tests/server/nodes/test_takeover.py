"""Two server processes over one PostgreSQL: either answers, one decides, and the other takes its place."""

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from websockets.sync.client import ClientConnection, connect

from tests.server.nodes.conftest import Node, Start, Worker, eventually


def answers(node: Node) -> bool:
    return node.http.get("/health").status_code == 200


def events_of(stream: ClientConnection, count: int) -> list[dict[str, Any]]:
    return [json.loads(stream.recv(timeout=20)) for _ in range(count)]


@contextmanager
def following(node: Node, after: int = 0) -> Iterator[ClientConnection]:
    url = f"wss://127.0.0.1:{node.port}/ws/events?after={after}"
    admin = {"Authorization": node.http.headers["Authorization"]}
    with connect(url, ssl=node.context, proxy=None, additional_headers=admin) as stream:
        yield stream


def terms(database_url: str) -> int:
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        term = connection.execute(sa.text("SELECT term FROM leadership")).scalar_one()
    engine.dispose()
    return int(term)


def test_either_server_answers_as_the_one(start: Start) -> None:
    first, second = start(LEGION_TRUSTED_PROXIES="127.0.0.1"), start(LEGION_TRUSTED_PROXIES="127.0.0.1")
    assert first.http.put("/training/config", json={"start": {"workers": 3}}).status_code == 200
    worker = Worker(second)
    for node, seen in ((first, "198.51.100.7"), (second, "198.51.100.8")):
        # The address that a worker calls from is the one it has, not that of the server it happened to reach.
        reply = worker.beat(node, "ready", **{"X-Forwarded-For": seen, "Legion-Client": '["192.0.2.1", 1, "https"]'})
        assert reply.status_code == 200, reply.text
        assert [view["endpoint"]["host"] for view in second.http.get("/workers").json()] == [seen]
        burst = node.http.post("/network/probe", content=os.urandom(2**22), headers=worker.headers)
        assert burst.json()["received_bytes"] == 2**22
        size = {"size_bytes": 2**22}
        assert len(node.http.get("/network/probe", params=size, headers=worker.headers).content) == 2**22
        assert node.http.post("/network/probe", content=os.urandom(2**22 + 1), headers=worker.headers).is_error
    assert second.http.get("/ca.pem").content == first.http.get("/ca.pem").content
    assert (second.end(), first.end()) == (0, 0)


def test_files_go_through_either_server(start: Start) -> None:
    first, second = start(), start()
    config = {"data": {"source": "distributed_dummy"}, "cluster": {"policy": "one"}, "start": {"workers": 1}}
    assert second.http.put("/training/config", json=config, timeout=60).status_code == 200
    worker = Worker(second)
    assert worker.beat(second, "ready").json()["phase"] == "training"
    manifest = second.http.get("/data/manifest", headers=worker.headers).json()
    tokenizer = manifest["tokenizer_sha256"]
    part = {"Range": "bytes=10-19"} | worker.headers
    for node in (first, second):
        whole = node.http.get(f"/data/{tokenizer}", headers=worker.headers).content
        assert hashlib.sha256(whole).hexdigest() == tokenizer
        partial = node.http.get(f"/data/{tokenizer}", headers=part)
        assert (partial.status_code, partial.content) == (206, whole[10:20])
        assert node.http.get(f"/data/{'0' * 64}", headers=worker.headers).status_code == 404


def test_the_other_takes_over_from_a_killed_leader_with_everything(start: Start, database_url: str) -> None:
    leader, other = start(), start()
    assert leader.http.put("/training/config", json={"steps": 77}).status_code == 200
    workers = [Worker(node) for node in (leader, other, leader)]
    run_id = other.http.get("/health").json()["run_id"]
    with following(leader) as at_leader, following(other) as at_other:
        before = events_of(at_leader, 5)
        assert events_of(at_other, 5) == before
        assert [event["number"] for event in before] == [1, 2, 3, 4, 5]
        assert leader.end(signal.SIGKILL) == -signal.SIGKILL
        eventually(lambda: answers(other), within_s=5)
        assert other.http.get("/health").json()["run_id"] == run_id
        assert other.http.get("/training/config").json()["steps"] == 77
        assert [worker.beat(other).status_code for worker in workers] == [200, 200, 200]
        workers.append(Worker(other))
        # Its streams outlive the change, and count on.
        assert [(event["number"], event["type"]) for event in events_of(at_other, 1)] == [(6, "worker_joined")]
        third = start()
        with following(third, after=5) as at_third:
            assert events_of(at_third, 1)[0]["number"] == 6
    assert [worker.beat(third).status_code for worker in workers] == [200] * 4
    assert terms(database_url) == 2


def test_a_leader_that_hung_writes_nothing_when_it_wakes_up(start: Start, database_url: str) -> None:
    hung, other = start(), start()
    worker = Worker(hung)
    hung.process.send_signal(signal.SIGSTOP)
    eventually(lambda: answers(other), within_s=20)
    assert other.http.put("/training/config", json={"steps": 88}).status_code == 200
    hung.process.send_signal(signal.SIGCONT)
    # It believed that it leads when it was stopped, and this is the first it hears.
    first = hung.http.put("/training/config", json={"steps": 99})
    assert first.status_code == 503, first.text
    assert first.json()["slug"] in ("no-leader", "unavailable")
    assert first.headers["Retry-After"] == "2"
    assert other.http.get("/training/config").json()["steps"] == 88
    eventually(lambda: answers(hung))
    assert hung.http.get("/training/config").json()["steps"] == 88
    assert worker.beat(hung).status_code == 200
    with following(hung) as at_hung, following(other) as at_other:
        assert events_of(at_hung, 3) == events_of(at_other, 3)
    assert terms(database_url) == 2


def test_a_leader_that_stops_hands_over_at_once(start: Start) -> None:
    leader, other = start(), start()
    worker = Worker(leader)
    assert leader.end() == 0
    eventually(lambda: worker.beat(other).status_code == 200, within_s=5)
    assert other.end() == 0
