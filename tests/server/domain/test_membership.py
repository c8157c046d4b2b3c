"""Who is here: heartbeats, silence, leaving, revoking."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from legion.ids import Epoch, WorkerId
from legion.messages import OFFLINE_AFTER_S, PROTOCOL, Endpoint, Hardware, Heartbeat
from legion_server.domain import membership
from legion_server.domain.membership import Worker

MakeWorker = Callable[..., Worker]


def test_a_heartbeat_replaces_what_the_worker_said_before(make_worker: MakeWorker) -> None:
    before = make_worker("a", failure="data", said_goodbye=True, state="offline", step=3)
    beat = Heartbeat(protocol=PROTOCOL, state="preparing", endpoint=Endpoint(host="h", port=1), step=4, share=2)
    after, happenings = membership.heard(before, beat, 9.0)
    assert (after.state, after.step, after.share, after.failure, after.last_seen) == ("preparing", 4, 2, None, 9.0)
    assert not after.said_goodbye
    assert [(h.type, h.data) for h in happenings] == [("worker_state", {"state": "preparing"})]
    assert membership.heard(after, beat, 10.0)[1] == []


def test_a_worker_that_forgets_its_epoch_was_started_anew(make_worker: MakeWorker) -> None:
    training = make_worker("a", state="training", epoch=Epoch(3))
    again, _ = membership.heard(training, Heartbeat(protocol=PROTOCOL, state="joining"), 1.0)
    assert again.dropped_epoch == 3
    onwards, _ = membership.heard(again, Heartbeat(protocol=PROTOCOL, state="training", epoch=Epoch(4)), 2.0)
    assert (onwards.epoch, onwards.dropped_epoch) == (4, 3)


def test_a_worker_that_leaves_its_plan_out_of_a_pause_has_rested(make_worker: MakeWorker) -> None:
    paused = make_worker("a", state="paused", epoch=Epoch(3))
    for state in ("paused", "joining"):
        after, _ = membership.heard(paused, Heartbeat(protocol=PROTOCOL, state=state), 1.0)
        assert (after.dropped_epoch, after.rested_epoch) == (3, 3)
    going_on, _ = membership.heard(paused, Heartbeat(protocol=PROTOCOL, state="training", epoch=Epoch(3)), 1.0)
    assert going_on.rested_epoch == 0
    crashed, _ = membership.heard(going_on, Heartbeat(protocol=PROTOCOL, state="joining"), 2.0)
    assert (crashed.dropped_epoch, crashed.rested_epoch) == (3, 0)


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1000)), st.floats(0, 2000))
def test_expire_takes_exactly_the_silent(last_seen: dict[str, float], now: float) -> None:
    hardware = Hardware(os="x", cpu_count=1, memory_bytes=1, free_disk_bytes=1, legion_version="0")
    workers = {
        WorkerId(name): Worker(WorkerId(name), name, hardware, name, 0.0, seen, 1e9, state="ready")
        for name, seen in last_seen.items()
    }
    lost, happenings = membership.expire(workers, now)
    assert {w.worker_id for w in lost} == {n for n, seen in last_seen.items() if now - seen > OFFLINE_AFTER_S}
    assert all(worker.state == "offline" and worker.endpoint is None for worker in lost)
    assert len(happenings) == len(lost)
    after = workers | {worker.worker_id: worker for worker in lost}
    assert membership.expire(after, now) == ([], [])


def test_revoked_workers_do_not_expire(make_worker: MakeWorker) -> None:
    revoked, _ = membership.revoke(make_worker("a"))
    assert membership.expire({revoked.worker_id: revoked}, 1e9) == ([], [])


def test_public_facts_never_name_anybody(make_worker: MakeWorker) -> None:
    worker = make_worker("a")
    said = [
        *membership.leave(worker, 1.0)[1],
        *membership.revoke(worker)[1],
        *membership.expire({worker.worker_id: worker}, 1e6)[1],
    ]
    assert len(said) == 3
    for happening in said:
        assert worker.worker_id not in str(happening.data)
        assert worker.name not in str(happening.data)
        assert happening.private["worker_id"] == worker.worker_id


def test_certificates_are_renewed_in_their_last_ten_days(make_worker: MakeWorker) -> None:
    worker = make_worker("a", certificate_until=30 * 86_400.0)
    assert not membership.renewal_due(worker, 19 * 86_400.0)
    assert membership.renewal_due(worker, 21 * 86_400.0)


def test_summary_counts_states(make_worker: MakeWorker) -> None:
    workers = [make_worker("a"), make_worker("b"), make_worker("c", state="offline")]
    found = membership.summary({worker.worker_id: worker for worker in workers})
    assert (found.total, found.by_state) == (3, {"ready": 2, "offline": 1})


def test_view_says_why_in_words(make_worker: MakeWorker) -> None:
    worker = make_worker("a", failure="data", failure_message="no text")
    assert membership.view(worker).failure == "no text"
    assert membership.view(replace(worker, failure_message=None)).failure == "data"
