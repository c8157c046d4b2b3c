"""Who shares a model with whom: the figures of the design, any matrix at all, and reasons that fit the decision."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.config import RunConfig, merge
from legion.ids import WorkerId
from legion.layout import Layout
from legion.messages import Device, Hardware
from legion_server.domain import clustering as cl
from legion_server.domain.cost import Candidate, Job, fits, fits_alone, forecast, member_bytes, nominal_speed
from legion_server.domain.links import Link, Pair

GIB = 2**30
MBIT = 125_000.0
# As llama-1b: 22 blocks, 1.1 billion elements, which take 17 GiB to train.
BILLION = (65_000_000, *(44_000_000,) * 22, 65_000_000)


def a_job(sizes: tuple[int, ...] = BILLION, **change: Any) -> Job:
    return Job(merge(RunConfig(), change), sizes)


def one(name: str, gib: float, tokens_per_s: float = 15.0, share: int = 1) -> Candidate:
    return Candidate(WorkerId(name * 32), name, int(gib * GIB), share, tokens_per_s)


def link(ms: float, mbit: float, state: Any = "measured") -> Link:
    return Link(state, ms / 1000, mbit * MBIT, mbit * MBIT, (3, 3), 1.0)


def between(links: dict[str, Link]) -> dict[Pair, Link]:
    """By two letters each."""
    return {(WorkerId(pair[0] * 32), WorkerId(pair[1] * 32)): link for pair, link in links.items()}


def groups(decision: cl.Decision) -> list[str]:
    return ["".join(worker[0] for worker in group) for group in decision.groups]


def said(decision: cl.Decision, name: str) -> cl.Reason:
    return decision.reasons[WorkerId(name * 32)]


def test_two_hosts_on_home_links_are_not_put_together() -> None:
    decision = cl.decide(a_job(), [one("a", 12), one("b", 12)], between({"ab": link(50, 20)}))
    assert groups(decision) == []
    assert said(decision, "a").kind == "waiting"
    assert said(decision, "a").not_with == ("not with b: a round trip takes 50 ms, more than 5 ms",)


def test_two_in_one_house_are_too_where_the_network_does_not_keep_up() -> None:
    """By themselves they would contribute nothing; but what comes too late for any round is nothing too."""
    pair, near = [one("a", 12), one("b", 12)], between({"ab": link(1, 430)})  # as bursts may find a busy gigabit
    decision = cl.decide(a_job(), pair, near)
    assert groups(decision) == ["ab"]
    told = forecast(a_job(), pair, near)
    assert not told.keeps_up
    assert told.compute_s < told.exchange_s < told.longest_step_s == 300.0
    assert "none could train alone, and it comes in the 300 s of a round" in said(decision, "a").sentence
    assert cl.LESS in said(decision, "a").sentence
    hasty = cl.decide(a_job(rounds={"deadline_s": 200.0}), pair, near)
    assert groups(hasty) == []
    assert "than the 100 s that a round waits for it" in said(hasty, "a").sentence


def test_two_in_one_house_are_when_the_model_does_not_fit_one_of_them() -> None:
    near = between({"ab": link(1, 1000)})
    decision = cl.decide(a_job(), [one("a", 12), one("b", 12)], near)
    assert groups(decision) == ["ab"]
    assert "shares the model with b: alone it takes 17.1 GiB of its 12 GiB" in said(decision, "a").sentence
    assert "within the 68.3 s of computing it" in said(decision, "a").sentence
    decision = cl.decide(a_job(), [one("a", 24), one("b", 24)], near)
    assert groups(decision) == ["a", "b"]
    assert said(decision, "b").sentence == "holds the model alone: it takes 17.1 GiB of its 24 GiB of memory"


def test_a_round_trip_alone_does_not_make_a_cluster_nor_does_throughput() -> None:
    pair = [one("a", 12), one("b", 12)]
    slow = cl.decide(a_job(), pair, between({"ab": link(1, 20)}))
    assert groups(slow) == []
    assert "more than the 68.3 s of computing it" in said(slow, "a").sentence
    far = cl.decide(a_job(), pair, between({"ab": link(5.1, 10_000)}))
    assert groups(far) == []
    fast_cards = [one("a", 12, 3000.0), one("b", 12, 3000.0)]
    assert groups(cl.decide(a_job(), fast_cards, between({"ab": link(1, 1000)}))) == ["ab"], "as much as slow ones do"
    waiting = cl.decide(a_job(), fast_cards, between({"ab": link(1, 100)}))
    assert groups(waiting) == []
    assert cl.LESS in said(waiting, "a").sentence


@pytest.mark.parametrize("state", ["no_bulk", "unreachable", "one_sided", "unmeasured"])
def test_a_link_that_is_not_known_to_carry_bulk_makes_no_cluster(state: str) -> None:
    decision = cl.decide(a_job(), [one("a", 12), one("b", 12)], between({"ab": link(1, 1000, state)}))
    assert groups(decision) == []
    (reason,) = said(decision, "a").not_with
    assert ("small messages arrive, but nothing large does" in reason) is (state == "no_bulk")
    measuring = "not measured yet" in said(decision, "a").sentence
    assert measuring is (state in ("one_sided", "unmeasured"))


def test_a_cluster_is_as_small_as_it_can_be_and_the_rest_waits() -> None:
    every_pair = {f"{a}{b}": link(1, 1000) for a, b in combinations("abcde", 2)}
    decision = cl.decide(a_job(), [one(name, 12) for name in "abcde"], between(every_pair))
    assert groups(decision) == ["ab", "cd"]
    assert said(decision, "e").kind == "waiting"
    assert "nobody that is free is near it" in said(decision, "e").sentence
    large_batches = a_job(batch={"micro_batch_blocks": 32})
    three = cl.decide(large_batches, [one(name, 8) for name in "abc"], between(every_pair))
    assert groups(three) == ["abc"]
    too_few = cl.decide(large_batches, [one(name, 8) for name in "ab"], between(every_pair))
    assert "there is not enough memory" in said(too_few, "a").sentence


def test_every_two_members_are_near_each_other() -> None:
    a_chain = between({"ab": link(1, 1000), "bc": link(1, 1000), "ac": link(30, 1000)})
    decision = cl.decide(a_job(), [one(name, 8) for name in "abc"], a_chain)
    assert groups(decision) == []


def test_nobody_shares_for_an_optimizer_that_needs_whole_matrices() -> None:
    job = a_job(optimizer={"name": "muon"}, cluster={"policy": "auto"})
    decision = cl.decide(job, [one("a", 12), one("b", 12)], between({"ab": link(1, 1000)}))
    assert groups(decision) == []
    assert "muon cannot be shared" in said(decision, "a").sentence


def test_alone_in_the_world() -> None:
    assert cl.decide(a_job(), [], {}) == cl.Decision(())
    assert "nobody else is there" in said(cl.decide(a_job(), [one("a", 1)], {}), "a").sentence


# The cost model.


def test_the_forecast_of_two_equal_members_by_hand() -> None:
    """P = 2^20 elements each half, two micro-batches, one each; fp32; two gathers and one gradient in each."""
    job = a_job((1 << 20,), batch={"micro_batches": 2, "micro_batch_blocks": 1}, data={"seq_len": 100})
    pair = [one("a", 1, 50.0), one("b", 1, 50.0)]
    told = forecast(job, pair, between({"ab": link(2, 8)}))  # 1 MB/s
    assert told.compute_s == pytest.approx(200 / 100)
    half = 4 * (1 << 19)
    assert told.exchange_s == pytest.approx(3 * half / 1e6 + (2 + 1 + 1 + 1) * 0.002)
    assert told.tokens_per_s == pytest.approx(200 / told.exchange_s)
    assert not told.keeps_up
    assert told.pays


def test_codecs_rarer_exchange_and_kept_weights_cost_less_time() -> None:
    pair, near = [one("a", 12), one("b", 12)], between({"ab": link(1, 1000)})
    plain = forecast(a_job(), pair, near).exchange_s
    for change in (
        {"codecs": {"weights": "bf16"}},
        {"codecs": {"gradients": "int8"}},
        {"cluster": {"reduce_every": "step"}, "batch": {"micro_batches": 4}},
        {"cluster": {"reshard_after_forward": False}},
    ):
        micro_batches = change.get("batch", {}).get("micro_batches", 2)
        assert forecast(a_job(**change), pair, near).exchange_s / micro_batches < plain / 2, change


def test_a_faster_member_computes_more_where_micro_batches_are_claimed() -> None:
    pair, near = [one("a", 12, 30.0), one("b", 12, 10.0)], between({"ab": link(1, 1000)})
    assert forecast(a_job(), pair, near).compute_s == pytest.approx(2048 / 40)
    assert forecast(a_job(cluster={"claims": "static"}), pair, near).compute_s == pytest.approx(1024 / 10)


def test_the_slowest_link_is_the_members() -> None:
    three = [one(name, 8) for name in "abc"]
    fast = between({"ab": link(1, 1000), "ac": link(1, 1000), "bc": link(1, 1000)})
    slow = between({"ab": link(1, 1000), "ac": link(1, 1000), "bc": link(1, 10)})
    assert forecast(a_job(), three, slow).exchange_s > 50 * forecast(a_job(), three, fast).exchange_s
    assert forecast(a_job(), three, {}).exchange_s == float("inf")


def test_members_behind_one_relay_share_what_it_carries() -> None:
    def behind(relays: str) -> list[Candidate]:
        named = {"-": None, "x": "x:1", "y": "y:1"}
        return [replace(one(name, 8), relay=named[relay]) for name, relay in zip("abc", relays, strict=True)]

    near = between({f"{a}{b}": link(1, 300) for a, b in combinations("abc", 2)})
    direct, single, apart, together = (
        forecast(a_job(), behind(r), near).exchange_s for r in ("---", "x--", "xy-", "xx-")
    )
    assert direct == single == apart, "a link is measured as it is, through the relay"
    assert together == pytest.approx(2 * direct, rel=0.01)
    assert forecast(a_job(), behind("xxx"), near).exchange_s == pytest.approx(3 * direct, rel=0.01)


def test_who_is_behind_a_relay_is_told_so() -> None:
    a, b = (replace(one(name, 12), relay="x:1") for name in "ab")
    shared = cl.decide(a_job(), [a, b], between({"ab": link(1, 1000)}))
    assert groups(shared) == ["ab"]
    assert "exchanging a step through the relay of a and b, which they share, takes 105 s" in said(shared, "a").sentence
    slow = cl.decide(a_job(), [a, b], between({"ab": link(1, 300)}))
    assert groups(slow) == [], "each link by itself would do"
    assert groups(cl.decide(a_job(), [one("a", 12), b], between({"ab": link(1, 300)}))) == ["ab"]
    far = cl.decide(a_job(), [one("a", 12), b], between({"ab": link(12, 1000)}))
    assert said(far, "a").not_with == ("not with b: a round trip through the relay of b takes 12 ms, more than 5 ms",)


def test_memory_is_what_the_optimizer_keeps_three_units_and_what_is_not_freed() -> None:
    job = a_job((4096, 8192))
    assert member_bytes(job, 4096) == 16 * 4096 + 3 * 4 * 8192
    assert member_bytes(a_job((4096, 8192), cluster={"reduce_every": "step"}), 0) == 3 * 4 * 8192 + 4 * 12288


def test_hardware_tells_a_speed_until_steps_do() -> None:
    bare = Hardware(os="x", cpu_count=4, memory_bytes=1, free_disk_bytes=1, legion_version="0")
    card = bare.model_copy(update={"devices": (Device(kind="cuda", name="x", memory_bytes=1),)})
    assert nominal_speed(card, 10**9) > 20 * nominal_speed(bare, 10**9) > 0


# Breaking clusters up.


def test_clusters_stay_unless_others_are_much_faster() -> None:
    job, (a, b, c) = a_job(), (one("a", 12), one("b", 12), one("c", 12))
    near = between({"ab": link(1, 700), "ac": link(1, 1000), "bc": link(1, 1000)})
    standing = [((a, b), None)]
    assert cl.moves(job, standing, [c], near) is None
    assert cl.moves(job, [((a, b), 1.0)], [c], near) is None, "those that would replace it are no faster"
    worse = between({"ab": link(30, 20), "ac": link(1, 1000), "bc": link(30, 20)})
    better = cl.moves(job, standing, [c], worse)
    assert better == ((WorkerId("a" * 32), WorkerId("c" * 32)),)
    assert cl.moves(job, [((a, b), 30.0)], [c], worse) is None, "it is fast whatever its links seem to be"
    assert cl.moves(job, standing, [], between({"ab": link(30, 20)})) is None, "nothing would be won"


# Growing.


def test_a_newcomer_joins_a_cluster_that_it_makes_faster() -> None:
    job, (a, b, c, d) = a_job(), (one(name, 12) for name in "abcd")
    pairs = {f"{x}{y}": link(1, 10_000) for x, y in combinations("abcd", 2)}
    near = between(pairs)
    assert cl.newcomer(job, [a, b], [d, c], near) == c, "of two alike, the one with the smaller id"
    assert cl.newcomer(job, [a, b], [replace(d, tokens_per_s=30.0), c], near) == replace(d, tokens_per_s=30.0)
    assert cl.newcomer(job, [a, b], [one("c", 24)], near) is None, "it holds the model alone"
    assert cl.newcomer(job, [a, b], [replace(c, tokens_per_s=2.0)], near) is None, "it is no help worth a break"
    for poor in (link(6, 1000), link(1, 1000, "one_sided"), link(1, 20)):
        assert cl.newcomer(job, [a, b], [c], between(pairs | {"bc": poor})) is None


def test_a_cluster_that_no_longer_holds_the_model_takes_whoever_makes_it_whole() -> None:
    near = between({f"{x}{y}": link(1, 430) for x, y in combinations("abc", 2)})
    small = [one(name, 8) for name in "abc"]
    assert cl.newcomer(a_job(), small[:2], small[2:], near) == small[2]
    assert cl.newcomer(a_job(), small[:1], small[2:], near) is None, "two do not hold it either"


# Any matrix.


def candidates(names: str) -> st.SearchStrategy[list[Candidate]]:
    return st.tuples(
        *(
            st.builds(
                Candidate,
                st.just(WorkerId(name * 32)),
                st.just(name),
                st.integers(0, 10**6),
                st.integers(1, 5),
                st.floats(1e-3, 1e6),
            )
            for name in names
        )
    ).map(list)


LINKS = st.builds(
    Link,
    st.sampled_from(["measured", "measured", "measured", "one_sided", "unmeasured", "no_bulk", "unreachable"]),
    st.none() | st.floats(1e-6, 0.02),
    st.none() | st.floats(1, 1e10),
    st.none() | st.floats(1, 1e10),
)
JOBS = st.builds(
    lambda sizes, every, codec, claims: a_job(
        tuple(sizes), cluster={"reduce_every": every, "claims": claims}, codecs={"weights": codec}
    ),
    st.lists(st.integers(1, 20_000), min_size=1, max_size=4),
    st.sampled_from(["micro_batch", "step"]),
    st.sampled_from(["none", "int8"]),
    st.sampled_from(["static", "dynamic"]),
)
NAMES = "abcdefg"
MATRIX = st.dictionaries(
    st.sampled_from([(WorkerId(a * 32), WorkerId(b * 32)) for a, b in combinations(NAMES, 2)]), LINKS
)


@given(JOBS, candidates(NAMES), MATRIX)
def test_any_matrix_gives_a_valid_plan(job: Job, workers: list[Candidate], known: dict[Pair, Link]) -> None:
    decision = cl.decide(job, workers, known)
    by_id = {worker.worker_id: worker for worker in workers}
    grouped = [worker for group in decision.groups for worker in group]
    assert len(grouped) == len(set(grouped)), "nobody is twice in the plan"
    assert set(decision.reasons) == set(by_id), "everybody is told why"
    assert cl.groups_of(job, workers, known) == decision.groups
    for group in decision.groups:
        members = [by_id[worker] for worker in group]
        layout = Layout(job.sizes, tuple(member.share for member in members))
        for rank, member in zip(layout.ranks, members, strict=True):
            assert member_bytes(job, layout.owned(rank)) <= member.memory_bytes
        for pair in combinations(group, 2):
            assert known[pair].near
        kinds = {decision.reasons[worker].kind for worker in group}
        assert kinds == {"alone" if len(group) == 1 else "together"}
        if len(group) > 1:
            assert not any(fits_alone(job, member) for member in members)
            assert forecast(job, members, known).pays
    waiting = {worker for worker in by_id if worker not in grouped}
    assert waiting == {w for w, reason in decision.reasons.items() if reason.kind == "waiting"}
    assert not any(fits_alone(job, by_id[worker]) for worker in waiting)


@given(JOBS, candidates(NAMES), MATRIX, st.data())
def test_the_order_of_the_workers_changes_nothing(
    job: Job, workers: list[Candidate], known: dict[Pair, Link], data: st.DataObject
) -> None:
    permuted = data.draw(st.permutations(workers))
    turned = dict(reversed(known.items()))
    assert cl.decide(job, permuted, turned) == cl.decide(job, workers, known)


@given(JOBS, candidates(NAMES), MATRIX)
def test_who_was_left_would_be_left_again(job: Job, workers: list[Candidate], known: dict[Pair, Link]) -> None:
    decision = cl.decide(job, workers, known)
    grouped = {worker for group in decision.groups for worker in group}
    left = [worker for worker in workers if worker.worker_id not in grouped]
    assert cl.decide(job, left, known).groups == ()
    standing = [([w for w in workers if w.worker_id in group], None) for group in decision.groups]
    assert cl.moves(job, standing, left, known) is None


@given(JOBS, candidates(NAMES), MATRIX, st.data())
def test_who_joins_makes_a_valid_plan_whatever_the_order(
    job: Job, workers: list[Candidate], known: dict[Pair, Link], data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, 3))
    group, free = workers[:size], workers[size:]
    found = cl.newcomer(job, group, free, known)
    assert found == cl.newcomer(job, group, data.draw(st.permutations(free)), dict(reversed(known.items())))
    if found is None:
        return
    assert found in free
    assert not fits_alone(job, found)
    larger = [*group, found]
    layout = Layout(job.sizes, tuple(member.share for member in larger))
    for rank, member in zip(layout.ranks, larger, strict=True):
        assert member_bytes(job, layout.owned(rank)) <= member.memory_bytes
    assert all(known[min((m.worker_id, found.worker_id), (found.worker_id, m.worker_id))].near for m in group)
    told = forecast(job, larger, known)
    assert told.pays
    if fits(job, group):
        assert told.tokens_per_s > cl.JOIN_GAIN * forecast(job, group, known).tokens_per_s
