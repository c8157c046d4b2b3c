"""What is known of links: nobody trusts one sample, one end, or what is old; who is to measure whom."""

from dataclasses import replace

import pytest
from coordinated_rounds import a_worker
from hypothesis import given
from hypothesis import strategies as st

from legion.ids import WorkerId
from legion.links import SERVER, LinkSample
from legion.messages import Endpoint
from legion_server.domain import links as lk
from legion_server.domain.links import Link, Links, Sample
from legion_server.domain.membership import Worker

A, B, C, D = (WorkerId(name * 32) for name in "abcd")
NOW = 1_000_000.0


def samples(*figures: tuple[float, float, float], at: float = NOW) -> tuple[Sample, ...]:
    """Of (round trip in ms, MB/s up, MB/s down)."""
    return tuple(Sample(at, "measured", rtt / 1000, up * 1e6, down * 1e6) for rtt, up, down in figures)


def broken(outcome: str, count: int = 2) -> tuple[Sample, ...]:
    return tuple(Sample(NOW, outcome, 0.001) for _ in range(count))  # type: ignore[arg-type]


GOOD = samples((1, 100, 90), (1.2, 110, 95), (0.9, 105, 80))


def test_a_single_sample_and_a_single_end_are_not_believed() -> None:
    assert lk.link({(A, B): GOOD[:1]}, A, B, NOW) == lk.UNMEASURED
    one_sided = lk.link({(A, B): GOOD, (B, A): GOOD[:1]}, A, B, NOW)
    assert (one_sided.state, one_sided.near, one_sided.samples) == ("one_sided", False, (3, 0))


def test_the_worse_of_two_accounts_counts() -> None:
    slow = samples((4, 50, 7), (4, 50, 7))
    link = lk.link({(A, B): GOOD, (B, A): slow}, A, B, NOW)
    assert link == Link("measured", 0.004, 7e6, 50e6, (3, 2), NOW)
    assert link.near
    boast = samples((0.001, 1e5, 1e5), (0.001, 1e5, 1e5))
    link = lk.link({(A, B): GOOD, (B, A): boast}, A, B, NOW)
    assert (link.rtt_s, link.there_bytes_per_s, link.back_bytes_per_s) == (0.001, 105e6, 90e6)


def test_one_exception_among_samples_changes_little() -> None:
    odd = (*GOOD, *samples((900, 0.01, 0.01)))
    link = lk.link({(A, B): odd, (B, A): odd}, A, B, NOW)
    assert link.near
    assert link.there_bytes_per_s is not None
    assert link.there_bytes_per_s > 80e6


@pytest.mark.parametrize("outcome", ["no_bulk", "unreachable"])
def test_a_link_that_one_end_finds_broken_is_broken(outcome: str) -> None:
    links: Links = {(A, B): (*GOOD, *broken(outcome)), (B, A): GOOD}
    for link in (lk.link(links, A, B, NOW), lk.link(links, B, A, NOW)):
        assert (link.state, link.near) == (outcome, False)
    once: Links = {(A, B): (*GOOD, *broken(outcome, 1)), (B, A): GOOD}
    assert lk.link(once, A, B, NOW).near, "one sample breaks nothing"


def test_what_is_old_or_in_the_future_no_longer_counts() -> None:
    links: Links = {(A, B): GOOD, (B, A): GOOD}
    assert lk.link(links, A, B, NOW + lk.MOST_AGE_S).near
    assert lk.link(links, A, B, NOW + lk.MOST_AGE_S + 1) == lk.UNMEASURED
    assert lk.link(links, A, B, NOW - 1) == lk.UNMEASURED
    assert lk.outdated(links, NOW + lk.MOST_AGE_S + 1) == [(A, B), (B, A)]
    told = [LinkSample(peer=B, rtt_s=0.5)]
    assert len(lk.told(links, A, told, NOW + lk.MOST_AGE_S + 1)[A, B]) == 1
    assert len(lk.told(links, A, told, NOW - 1)[A, B]) == 1, "a clock was ahead"


def test_the_newest_few_are_kept_and_oneself_is_no_peer() -> None:
    told = [LinkSample(peer=B, rtt_s=0.001 * number) for number in range(1, 9)]
    rows = lk.told({}, A, [*told, LinkSample(peer=A, rtt_s=0.001)], NOW)
    assert list(rows) == [(A, B)]
    assert [sample.rtt_s for sample in rows[A, B]] == [0.004, 0.005, 0.006, 0.007, 0.008]


def test_regions_are_those_that_are_near_in_the_coarse_sense() -> None:
    def both(first: WorkerId, second: WorkerId, ms: float) -> Links:
        rows = samples((ms, 1, 1), (ms, 1, 1))
        return {(first, second): rows, (second, first): rows}

    links = {**both(A, B, 20), **both(B, C, 49), **both(C, D, 51)}
    assert lk.regions(links, [D, C, B, A], NOW) == {A: 0, B: 0, C: 0, D: 1}
    assert lk.regions(links, [A, D], NOW) == {}, "nothing is known of these two"


# Who measures whom.


def there(name: str, host: str = "8.8.8.8", **changes: object) -> Worker:
    return replace(a_worker(name, endpoint=Endpoint(host=host, port=1)), **changes)


def of(*workers: Worker) -> dict[WorkerId, Worker]:
    return {worker.worker_id: worker for worker in workers}


def measured_by(me: WorkerId, *others: WorkerId, ms: float = 1) -> dict[lk.Pair, tuple[Sample, ...]]:
    return {(me, other): samples((ms, 1, 1), (ms, 1, 1)) for other in others}


def names(peers: tuple[object, ...]) -> str:
    return "".join(peer.worker_id[0] for peer in peers)  # type: ignore[attr-defined]


def test_everybody_of_a_few_is_measured_once_by_both_ends_and_again_later() -> None:
    workers = of(there("a"), there("b"), there("c"))
    assert sorted(names(lk.due({}, {}, workers[A], workers, NOW))) == ["b", "c"]
    assert names(lk.due({}, {(A, B): NOW - 1}, workers[A], workers, NOW)) == "c", "it was asked a moment ago"
    links = measured_by(A, B, C)
    assert lk.due(links, {}, workers[A], workers, NOW) == ()
    assert names(lk.due(links, {}, workers[B], workers, NOW)) != ""
    assert sorted(names(lk.due(links, {}, workers[A], workers, NOW + lk.REFRESH_S))) == ["b", "c"]
    gone = {(A, B): broken("unreachable"), **measured_by(A, C)}
    assert names(lk.due(gone, {}, workers[A], workers, NOW + lk.BROKEN_REFRESH_S)) == "b"


def test_who_is_not_there_neither_measures_nor_is_measured() -> None:
    away = of(there("a"), there("b", state="offline"), there("c", state="paused"), replace(there("d"), endpoint=None))
    assert lk.due({}, {}, away[A], away, NOW) == ()
    assert lk.due({}, {}, away[B], of(there("a")), NOW) == ()


def test_the_same_subnet_and_who_found_us_near_come_first() -> None:
    workers = of(there("a", "10.0.0.1"), *(there(name) for name in "befghij"), there("c", "10.0.0.9"), there("d"))
    links = measured_by(D, A)
    assert sorted(names(lk.due(links, {}, workers[A], workers, NOW))) == ["c", "d"]


def test_in_a_large_run_each_measures_a_few() -> None:
    workers = {}
    for number in range(60):
        worker_id = WorkerId(f"{number:032}")
        workers[worker_id] = replace(there("x"), worker_id=worker_id)
    me, links = workers[WorkerId(f"{7:032}")], dict[lk.Pair, tuple[Sample, ...]]()
    for _ in range(40):
        for peer in lk.due(links, {}, me, workers, NOW):
            links |= measured_by(me.worker_id, peer.worker_id, ms=200)
    assert lk.PEERS <= len(links) <= lk.MOST_PEERS


def test_the_line_to_the_server_is_measured_once_a_while() -> None:
    assert lk.server_due({}, {}, A, NOW)
    assert not lk.server_due({}, {(A, SERVER): NOW - 1}, A, NOW)
    assert not lk.server_due({(A, SERVER): GOOD}, {}, A, NOW)
    assert lk.server_due({(A, SERVER): GOOD}, {}, A, NOW + lk.REFRESH_S)


SAMPLES = st.lists(
    st.builds(
        Sample,
        at=st.floats(0, 2 * NOW),
        outcome=st.sampled_from(["measured", "no_bulk", "unreachable"]),
        rtt_s=st.none() | st.floats(1e-6, 10),
        up_bytes_per_s=st.none() | st.floats(1, 1e10),
        down_bytes_per_s=st.none() | st.floats(1, 1e10),
    ),
    max_size=5,
).map(tuple)


@given(SAMPLES, SAMPLES)
def test_a_link_reads_the_same_from_both_ends(there: tuple[Sample, ...], back: tuple[Sample, ...]) -> None:
    links: Links = {(A, B): there, (B, A): back}
    one, other = lk.link(links, A, B, NOW), lk.link(links, B, A, NOW)
    assert (one.state, one.rtt_s, one.near) == (other.state, other.rtt_s, other.near)
    assert (one.there_bytes_per_s, one.back_bytes_per_s) == (other.back_bytes_per_s, other.there_bytes_per_s)
    if one.near:
        assert min(one.samples) >= lk.LEAST
