"""One contributor by itself: what is refused, what decays, what a flush and a restart leave."""

import numpy as np
import pytest

from legion.codec.api import AnyCodec, Floats
from legion.codec.registry import ALL, SPARSE, by_name
from legion.errors import NotFinite, PartInvalid
from legion.layout import CHUNK
from legion.outer.contribution import Contributor, Part, Waiting
from tests.core.outer.small_rounds import decoded, restarted

CODECS: tuple[AnyCodec, ...] = (*ALL, *SPARSE)


def values_of_size(numel: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(numel).astype(np.float32)


def test_a_part_must_be_settled_before_the_next_is_made() -> None:
    contributor = Contributor(CHUNK, "residual", 1.0)
    contributor.contribute(4, values_of_size(CHUNK), by_name("none"), flush=False)
    with pytest.raises(ValueError, match="round 4"):
        contributor.contribute(5, values_of_size(CHUNK), by_name("none"), flush=False)
    assert contributor.settle(3, 1.0).size == 0
    assert contributor.pending is not None, "the record of another round settles nothing"
    contributor.settle(4, None)
    contributor.contribute(5, values_of_size(CHUNK), by_name("none"), flush=False)


@pytest.mark.parametrize("feedback", ["residual", "buffer"])
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_values_that_are_not_finite_never_enter_the_feedback(feedback: str, codec: AnyCodec) -> None:
    contributor = Contributor(CHUNK, feedback, 0.5)  # type: ignore[arg-type]
    contributor.contribute(0, values_of_size(CHUNK), codec, flush=False)
    contributor.settle(0, None)
    before = contributor.buffer.copy()
    broken = values_of_size(CHUNK)
    broken[17] = np.nan
    with pytest.raises(NotFinite):
        contributor.contribute(1, broken, codec, flush=False)
    assert np.array_equal(contributor.buffer, before)
    assert contributor.pending is None


def test_the_buffer_decays_once_a_round_whether_missed_or_not() -> None:
    contributor, codec = Contributor(CHUNK, "buffer", 0.5), by_name("none")
    first, second = values_of_size(CHUNK, 1), values_of_size(CHUNK, 2)
    contributor.contribute(0, first, codec, flush=False)
    contributor.settle(0, None)
    for missed in (1, 2):
        assert contributor.settle(missed, None).size == 0
    part = contributor.contribute(3, second, codec, flush=False)
    assert np.array_equal(decoded(codec, part.data, CHUNK), (first / 8 + second).astype(np.float64))


@pytest.mark.parametrize("included", [True, False])
def test_the_buffer_form_starts_every_round_at_the_anchor(included: bool) -> None:
    contributor, codec, displacement = Contributor(CHUNK, "buffer", 1.0), by_name("int8"), values_of_size(CHUNK)
    part = contributor.contribute(0, displacement, codec, flush=False)
    returned = contributor.settle(0, 0.5 if included else None)
    assert np.array_equal(returned, displacement), "what waits is in the buffer now"
    sent = decoded(codec, part.data, CHUNK) if included else 0.0
    assert np.allclose(contributor.buffer, displacement - sent, atol=1e-6)


@pytest.mark.parametrize("feedback", ["residual", "buffer"])
def test_a_flush_leaves_nothing_waiting_if_it_is_included(feedback: str) -> None:
    contributor, codec, displacement = Contributor(CHUNK, feedback, 1.0), by_name("int4"), values_of_size(CHUNK)  # type: ignore[arg-type]
    contributor.contribute(0, displacement, codec, flush=True)
    assert np.array_equal(contributor.settle(0, 0.25), displacement), "local weights become the anchor"
    assert not contributor.buffer.any()
    contributor.contribute(1, displacement, codec, flush=True)
    returned = contributor.settle(1, None)
    waiting = contributor.buffer if feedback == "buffer" else displacement
    assert np.array_equal(waiting, displacement)
    assert np.array_equal(returned, displacement if feedback == "buffer" else np.empty(0)), "not included: it all waits"


@pytest.mark.parametrize("feedback", ["residual", "buffer"])
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("scale", [None, 0.25])
@pytest.mark.parametrize("missed", [0, 7])
def test_a_restart_changes_nothing(feedback: str, flush: bool, scale: float | None, missed: int) -> None:
    contributor, codec = Contributor(2 * CHUNK, feedback, 0.5), by_name("int4")  # type: ignore[arg-type]
    contributor.contribute(0, values_of_size(2 * CHUNK, 1), codec, flush=False)
    contributor.settle(0, None)
    contributor.contribute(1, values_of_size(2 * CHUNK, 2), codec, flush=flush)
    again = restarted(contributor, feedback, 0.5)
    assert np.array_equal(again.settle(1, scale), contributor.settle(1, scale))
    for number in range(missed):
        assert again.settle(2 + number, None).size == contributor.settle(2 + number, None).size == 0
    assert np.array_equal(again.buffer, contributor.buffer)
    assert again.pending is None


def test_what_is_given_up_is_gone() -> None:
    contributor = Contributor(CHUNK, "buffer", 0.5)
    contributor.contribute(0, values_of_size(CHUNK), by_name("none"), flush=False)
    contributor.give_up()
    assert contributor.settle(0, None).size == 0
    assert not contributor.buffer.any()


@pytest.mark.parametrize(
    "wrong",
    [
        Waiting(None, np.zeros(2 * CHUNK, np.float32), np.zeros(0, np.float32)),
        Waiting(None, np.zeros(CHUNK, np.float32), np.zeros(CHUNK, np.float32)),
        Waiting(Part(0, by_name("none"), b"", flush=False), np.zeros(CHUNK, np.float32), np.zeros(0, np.float32)),
    ],
)
def test_feedback_of_another_span_or_form_is_refused(wrong: Waiting) -> None:
    contributor = Contributor(CHUNK, "buffer", 0.5)
    with pytest.raises(PartInvalid, match="this span has"):
        contributor.restore(wrong)
