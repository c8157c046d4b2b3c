"""Blocks in the rounds of a run: leased, delivered, counted once, given back."""

from coordinated_rounds import SEQ_LEN, Table, config_of
from round_workers import inclusion

from legion.errors import ReportInvalid
from legion.rounds import Blocks
from legion_server.domain import leases, round_plan


def test_next_blocks_become_blocks() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    for number in range(20):
        before = table.plan
        assert before.round == number
        table.whole_round()
        if number == 19:
            break
        for old, new in zip(before.participants, table.plan.participants, strict=True):
            assert new.blocks == old.next_blocks
    assert table.run.phase == "finishing"
    assert [record.round for record in table.records] == list(range(20))
    assert table.records[-1].flush
    assert [record.round for record in table.records if record.flush] == [15, 19]
    assert all(not len(p.next_blocks) for p in before.participants)
    assert table.records[-1].total_tokens == 20 * 2 * 12 * SEQ_LEN
    assert table.rounds.pool == leases.Pool(fresh=20 * 2 * 12)


def test_blocks_that_come_twice_count_once() -> None:
    table = Table(config_of(2), "ab")
    first, second = table.plan.participants
    twice = inclusion(table.plan, 0, first, SEQ_LEN, blocks=(first.blocks, first.blocks))
    one = Blocks(start=second.blocks.start, stop=second.blocks.start + 1)
    few = inclusion(table.plan, 0, second, SEQ_LEN, blocks=(one,))
    assert table.report(0, included=(twice, few)) is None
    assert table.rounds.counters.duplicate_blocks == 12
    assert table.rounds.counters.uncounted_tokens == 11 * SEQ_LEN
    report = table.rounds.turns[0].report
    assert report is not None
    assert [i.tokens for i in report.included] == [12 * SEQ_LEN, SEQ_LEN]
    assert table.report(1, included=(inclusion(table.plan, 1, second, SEQ_LEN),)) is None
    # Again in the next round, as it may to span 1: span 0 has had them.
    now = table.plan.participants[0]
    old = inclusion(table.plan, 0, now, SEQ_LEN, blocks=(first.blocks, now.blocks))
    assert table.report(0, included=(old,)) is None
    assert table.rounds.counters.duplicate_blocks == 24
    assert table.report(1, included=(old,)) is None
    assert table.rounds.counters.duplicate_blocks == 24


def test_a_cluster_that_was_left_out_delivers_with_the_next_round() -> None:
    table = Table(config_of(2), "ab")
    first, second = table.plan.participants
    for span in (0, 1):
        assert table.report(span, included=(inclusion(table.plan, span, first, SEQ_LEN),)) is None
    late = table.plan.participants[1]
    assert late.most_tokens == 24 * SEQ_LEN
    assert [p.earlier for p in table.plan.participants] == [(), (second.blocks,)]
    both = (second.blocks, late.blocks)
    for span in (0, 1):
        included = (inclusion(table.plan, span, late, SEQ_LEN, blocks=both, tokens=24 * SEQ_LEN),)
        assert table.report(span, included=included) is None
    assert [record.tokens for record in table.records] == [12 * SEQ_LEN, 24 * SEQ_LEN]
    assert table.rounds.counters.duplicate_blocks == 0


def test_leases_of_a_cluster_that_lives_and_never_contributes_go_back() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    held: list[list[Blocks]] = []
    others: list[Blocks] = []
    for _ in range(15):
        first, second = table.plan.participants
        others.append(first.blocks)
        held.append([second.blocks, second.next_blocks, *second.earlier])
        assert len(second.earlier) <= round_plan.MOST_EARLIER
        assert first.earlier == ()
        for span in (0, 1):
            assert table.report(span, included=(inclusion(table.plan, span, first, SEQ_LEN),)) is None
    assert [len(ranges) - 2 for ranges in held] == [*range(round_plan.MOST_EARLIER), *[round_plan.MOST_EARLIER] * 7]
    given_back = leases.minus(held[0], held[-1])
    assert leases.count(given_back) == 24
    assert leases.overlap(given_back, others) == given_back, (
        "others have trained on them: now nobody else may name them"
    )
    second = table.plan.participants[1]
    stale = inclusion(table.plan, 0, second, SEQ_LEN, blocks=(held[0][0],))
    assert isinstance(table.report(0, included=(stale,)), ReportInvalid)
    all_of_it = (second.blocks, *second.earlier)
    for span in (0, 1):
        done = inclusion(table.plan, span, second, SEQ_LEN, blocks=all_of_it, tokens=second.most_tokens)
        assert table.report(span, included=(done,)) is None
    assert table.records[-1].tokens == SEQ_LEN * leases.count(all_of_it) == 9 * 12 * SEQ_LEN
    assert table.rounds.counters.duplicate_blocks == 0


def test_blocks_that_one_span_has_counted_are_never_leased_again() -> None:
    """A cluster whose first contribution reached one span only, and that was never heard of again."""
    table = Table(config_of(2), "ab")
    table.follow()
    second = table.plan.participants[1]
    leased: list[Blocks] = []  # after the next round's
    for number in range(round_plan.MOST_EARLIER + 4):
        here, there = table.plan.participants
        leased += [here.next_blocks, there.next_blocks] if number else []
        reached = (here, there) if number == 0 else (here,)
        assert table.report(0, included=tuple(inclusion(table.plan, 0, p, SEQ_LEN) for p in reached)) is None
        assert table.report(1, included=(inclusion(table.plan, 1, here, SEQ_LEN),)) is None
    assert len(table.rounds.seats[second.cluster].leases) == round_plan.MOST_EARLIER + 2
    leased += table.rounds.pool.returned
    assert leases.overlap(leased, (second.blocks,)) == (), "counted: used up"
    assert leases.overlap(leased, (second.next_blocks,)), "not counted: free, or leased again"


def test_unused_blocks_are_leased_again() -> None:
    table = Table(config_of(2), "ab")
    first, second = table.plan.participants
    half = Blocks(start=first.blocks.start, stop=first.blocks.start + 6)
    for span in (0, 1):
        included = (
            inclusion(table.plan, span, first, SEQ_LEN, blocks=(half,), tokens=6 * SEQ_LEN),
            inclusion(table.plan, span, second, SEQ_LEN),
        )
        assert table.report(span, included=included) is None
    assert table.rounds.pool.returned == (Blocks(start=6, stop=12),)
