"""Half of the workers are killed: the server has not lost them yet, and the round goes on without them."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from legion.ids import WorkerId
from legion_server.domain.silence import MISSED, WAITING_HEARTBEAT_S, quiet, quiet_clusters
from tests.coordinated_rounds import Table, config_of

QUIET_S = MISSED * WAITING_HEARTBEAT_S


def heard(table: Table, names: str) -> None:
    for name in names:
        worker_id = WorkerId(name * 32)
        table.workers[worker_id] = replace(table.workers[worker_id], last_seen=table.now)


def test_spans_of_those_that_missed_heartbeats_go_to_those_that_did_not() -> None:
    table = Table(config_of(4), "abcd")
    table.follow()
    mute = {WorkerId(name * 32) for name in "bd"}
    theirs = [span for span in range(len(table.plan.spans)) if table.plan.reducer(span) in mute]
    assert theirs
    for _ in range(int(QUIET_S // WAITING_HEARTBEAT_S)):
        heard(table, "ac")
        table.tick(WAITING_HEARTBEAT_S)
        assert table.plan.revision == 0
    heard(table, "ac")
    table.tick(1.0)
    assert table.plan.revision == 1
    assert not {table.plan.reducer(span) for span in range(len(table.plan.spans))} & mute
    assert table.rounds.counters.clusters_lost == 0, "they may be back in a moment"
    assert len(table.run.clusters) == 4
    unheard = quiet(table.run, table.rounds, table.workers, table.now)
    assert unheard == mute
    silent = {plan.cluster for plan in table.run.clusters if plan.members[0].worker_id in mute}
    assert set(quiet_clusters(table.run.clusters, unheard)) == silent
    heard(table, "bd")
    assert quiet(table.run, table.rounds, table.workers, table.now) == frozenset()


@given(st.lists(st.floats(0, 200), min_size=3, max_size=3))
def test_nobody_is_passed_over_where_nobody_is_heard(silent_s: list[float]) -> None:
    """Then it is the server that was cut off."""
    table = Table(config_of(3), "abc")
    table.follow()
    table.now += 1000
    for name, seconds in zip("abc", silent_s, strict=True):
        worker_id = WorkerId(name * 32)
        table.workers[worker_id] = replace(table.workers[worker_id], last_seen=table.now - seconds)
    unheard = quiet(table.run, table.rounds, table.workers, table.now)
    passed_over = quiet_clusters(table.run.clusters, unheard)
    assert len(unheard) == sum(seconds > QUIET_S for seconds in silent_s)
    assert len(passed_over) == (len(unheard) if len(unheard) < 3 else 0)
