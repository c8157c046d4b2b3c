"""Credit: every counted token once in all, whenever its spans are included, and shared within a cluster."""

from collections.abc import Sequence

from coordinated_rounds import Table, config_of
from hypothesis import given
from hypothesis import strategies as st

from legion.ids import ClusterId, RunId, WorkerId
from legion.rounds import Inclusion, RoundPlan, RoundRecord, SpanRecord
from legion_server.domain import credit
from legion_server.domain.credit import Account, Accounts, RoundCredit

A, B, C, D = (WorkerId(name * 32) for name in "abcd")
PAIRS = Table(config_of(4, size=2), "abcd").plan


def record_of(plan: RoundPlan, tokens: Sequence[dict[ClusterId, int]], number: int = 0) -> RoundRecord:
    """`tokens`: what each span counts of which cluster."""
    spans = tuple(
        SpanRecord(
            term=0,
            reducer=A,
            digest="0" * 64,
            size_bytes=1,
            included=tuple(Inclusion(cluster=name, parts=("0" * 64,), tokens=n) for name, n in of_span.items()),
        )
        for of_span in tokens
    )
    bounds = tuple((span.start, span.stop) for span in plan.spans)
    return RoundRecord(
        run_id=RunId("run-1"), round=number, spans=spans, bounds=bounds, tokens=0, total_tokens=0, committed_at=0.0
    )


def test_members_share_what_all_spans_count() -> None:
    first, second = (participant.cluster for participant in PAIRS.participants)
    lines = credit.of_round(PAIRS, record_of(PAIRS, [{first: 101, second: 10}] * 4, number=3), parameters=1000, at=7.0)
    assert lines == RoundCredit(RunId("run-1"), 3, {A: 51, B: 50, C: 5, D: 5}, 1000, 7.0)


def test_who_was_not_included_has_no_line() -> None:
    first, second = (participant.cluster for participant in PAIRS.participants)
    lines = credit.of_round(PAIRS, record_of(PAIRS, [{first: 2, second: 0}] * 4), parameters=1000, at=7.0)
    assert lines.tokens == {A: 1, B: 1}
    assert credit.of_round(PAIRS, record_of(PAIRS, [{}] * 4), parameters=1000, at=7.0).tokens == {}


@given(st.lists(st.tuples(st.integers(0, 10**9), st.lists(st.booleans(), min_size=4, max_size=4)), max_size=8))
def test_work_that_is_included_span_by_span_is_credited_once(rounds: list[tuple[int, list[bool]]]) -> None:
    """What a span misses waits, and enters with a later round's work; the last one takes all that waits."""
    cluster = PAIRS.participants[0].cluster
    waiting, credited = [0] * 4, 0
    for number, (tokens, included) in enumerate([*rounds, (0, [True] * 4)]):
        waiting = [before + tokens for before in waiting]
        counted = [{cluster: amount} if taken else {} for amount, taken in zip(waiting, included, strict=True)]
        waiting = [0 if taken else amount for amount, taken in zip(waiting, included, strict=True)]
        credited += sum(
            credit.of_round(PAIRS, record_of(PAIRS, counted, number), parameters=1000, at=7.0).tokens.values()
        )
    done = sum(tokens for tokens, _ in rounds)
    assert done - len(rounds) - 1 <= credited <= done


def test_equal_sums_share_a_place() -> None:
    accounts = Accounts({A: 10, B: 30, C: 10, D: 0})
    assert accounts.of(B) == Account(30, 1, 3)
    assert accounts.of(A) == accounts.of(C) == Account(10, 2, 3)
    assert accounts.of(D) == accounts.of(WorkerId("e" * 32)) == Account(accounts=3)
    assert Accounts({}).of(A) == Account()
