"""What waits at a reducer: it goes with a committed update, once, wherever it came from."""

import numpy as np

from legion.codec.api import Floats
from legion.ids import ClusterId
from legion.layout import CHUNK, Bounds
from legion.outer.residuals import Made, Promised, Residuals, is_committed
from legion.rounds import RoundRecord, SpanRecord
from tests.core.outer.small_rounds import RUN, worker_of

FIRST, SECOND = Bounds(0, CHUNK), Bounds(CHUNK, 3 * CHUNK)
ONE, TWO = Made(0, "1" * 64), Made(0, "2" * 64)


def full(value: float, bounds: Bounds = FIRST) -> Floats:
    return np.full(len(bounds), value, np.float32)


def record(number: int, *updates: Made) -> RoundRecord:
    spans = tuple(
        SpanRecord(term=term, reducer=worker_of(ClusterId("a"), 0), digest=digest, size_bytes=1, included=())
        for term, digest in updates
    )
    return RoundRecord(
        run_id=RUN,
        round=number,
        spans=spans,
        bounds=tuple((b.start, b.stop) for b in (FIRST, SECOND)),
        tokens=0,
        total_tokens=0,
        committed_at=0.0,
    )


def value(residuals: Residuals, bounds: Bounds = FIRST) -> float:
    found = residuals.take(bounds)
    return 0.0 if found is None else float(found[0])


def test_spans_with_one_digest_are_apart() -> None:
    """Two spans may have the same update, of other values before it was encoded."""
    residuals = Residuals()
    residuals.dropped(FIRST, ONE, full(1.0))
    residuals.dropped(SECOND, ONE, full(2.0, SECOND))
    residuals.settle(record(0, ONE, ONE))
    assert (value(residuals), value(residuals, SECOND)) == (1.0, 2.0)


def test_the_same_update_of_another_term_is_not_ours() -> None:
    """Then what waits with it is with who made that."""
    residuals = Residuals()
    residuals.dropped(FIRST, ONE, full(1.0))
    residuals.promise(Promised(0, FIRST, ONE, full(2.0)))
    residuals.settle(record(0, ONE._replace(term=1), TWO))
    assert value(residuals) == 0.0


def test_what_is_handed_over_adds_up() -> None:
    residuals = Residuals()
    residuals.dropped(FIRST, ONE, full(1.0))
    residuals.settle(record(0, ONE, TWO))
    residuals.add(FIRST, full(0.5))
    residuals.add(FIRST, full(0.25))
    assert value(residuals) == 1.75
    residuals.settle(record(1, TWO, TWO))  # ours was not committed
    assert value(residuals) == 1.75


def test_what_comes_after_our_update_was_made_goes_with_the_next() -> None:
    residuals = Residuals()
    assert residuals.take(FIRST) is None
    residuals.add(FIRST, full(0.5))
    residuals.dropped(FIRST, ONE, full(0.125))
    residuals.settle(record(0, ONE, TWO))
    assert value(residuals) == 0.625


def test_a_promise_is_kept_if_its_update_is_committed() -> None:
    for digest, expected in ((ONE, 3.0), (TWO, 0.0)):
        residuals = Residuals()
        residuals.promise(Promised(4, FIRST, ONE, full(3.0)))
        residuals.settle(record(3, TWO, TWO))
        assert value(residuals) == 0.0
        residuals.settle(record(4, digest, ONE))
        assert value(residuals) == expected
        residuals.settle(record(5, ONE, ONE))
        assert value(residuals) == expected
    assert is_committed(record(0, TWO, ONE), SECOND, ONE)
    assert not is_committed(record(0, TWO, ONE), FIRST, ONE)


def test_who_leaves_tells_of_the_update_under_way() -> None:
    residuals = Residuals()
    assert residuals.leaving(FIRST) is None
    residuals.add(FIRST, full(1.0))
    found = residuals.leaving(FIRST)
    assert found is not None
    assert (found[0][0], found[1]) == (1.0, None)
    residuals.dropped(FIRST, ONE, full(0.25))
    residuals.add(FIRST, full(0.5))
    found = residuals.leaving(FIRST)
    assert found is not None
    assert (found[0][0], found[1]) == (0.75, ONE)
