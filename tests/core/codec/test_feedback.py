"""Error feedback: nothing is lost and nothing counts twice, whatever is included, missed, restarted or refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion.codec.api import AnyCodec, Floats
from legion.codec.feedback import Feedback
from legion.codec.registry import ALL, SPARSE, any_by_name
from legion.errors import NotFinite, PartInvalid
from legion.layout import CHUNK

every_codec = pytest.mark.parametrize("codec", [*ALL, *SPARSE], ids=lambda codec: codec.name)
NUMEL = 2 * CHUNK


def given_values(seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(NUMEL).astype(np.float32)


def decoded(codec: AnyCodec, data: bytes | memoryview) -> Floats:
    out = np.empty(NUMEL, dtype=np.float32)
    codec.decode(memoryview(data), out)
    return out


@every_codec
@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["included", "missed", "included after a restart"]), max_size=12))
def test_included_work_and_waiting_work_are_all_work(codec: AnyCodec, events: list[str]) -> None:
    feedback = Feedback(codec, NUMEL)
    done, applied = np.zeros(NUMEL), np.zeros(NUMEL)
    for seed, event in enumerate(events):
        done += given_values(seed)
        data = bytes(feedback.encode(given_values(seed)))
        if event == "included after a restart":
            state = feedback.state_dict()
            feedback = Feedback(codec, NUMEL)
            feedback.load_state_dict(state)
        if event == "missed":
            feedback.missed()
        else:
            applied += decoded(codec, data)
            feedback.included()
        assert not feedback.is_pending
    assert np.allclose(applied + feedback.residual, done, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "bound"), [("int8", 0.01), ("int4", 0.13), ("int2", 0.6), ("onebit", 1.5), ("topk256", 8), ("topk64", 30)]
)
def test_what_waits_stays_bounded(name: str, bound: float) -> None:
    """In units of what comes in each time: a biased codec without feedback would drift without end."""
    feedback = Feedback(any_by_name(name), NUMEL)
    sizes = []
    for seed in range(120):
        feedback.encode(given_values(seed))
        feedback.included()
        sizes.append(float(np.linalg.norm(feedback.residual)) / np.sqrt(NUMEL))
    assert max(sizes) <= bound


def test_beta_lets_what_waits_fade() -> None:
    feedback = Feedback(any_by_name("topk64"), NUMEL, beta=0.5)
    feedback.encode(given_values(0))
    feedback.missed()
    before = feedback.residual.copy()
    assert np.array_equal(before, given_values(0))
    feedback.encode(np.zeros(NUMEL, dtype=np.float32))
    assert np.array_equal(feedback.residual, before * np.float32(0.5))


def test_encoding_twice_without_settling_is_refused() -> None:
    feedback = Feedback(any_by_name("int4"), NUMEL)
    feedback.encode(given_values(0))
    with pytest.raises(ValueError, match="neither included nor missed"):
        feedback.encode(given_values(1))


@every_codec
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_changes_nothing(codec: AnyCodec, bad: float) -> None:
    feedback = Feedback(codec, NUMEL)
    feedback.encode(given_values(0))
    feedback.missed()
    before = feedback.residual.copy()
    values = given_values(1)
    values[17] = bad
    with pytest.raises(NotFinite):
        feedback.encode(values)
    assert np.array_equal(feedback.residual, before)
    assert not feedback.is_pending
    feedback.encode(given_values(1))


def test_a_state_is_a_copy_of_arrays() -> None:
    feedback = Feedback(any_by_name("int4"), NUMEL)
    feedback.encode(given_values(0))
    state = feedback.state_dict()
    assert {name: (value.dtype, value.shape) for name, value in state.items()} == {
        "residual": (np.float32, (NUMEL,)),
        "pending": (np.uint8, (2 * any_by_name("int4").most_bytes(CHUNK),)),
    }
    feedback.included()
    assert np.array_equal(state["residual"], given_values(0))
    with pytest.raises(PartInvalid, match="8192 elements for 4096"):
        Feedback(any_by_name("int4"), CHUNK).load_state_dict(state)


def test_a_stream_of_nothing() -> None:
    feedback = Feedback(any_by_name("topk64"), 0)
    assert feedback.encode(np.empty(0, dtype=np.float32)).nbytes == 0
    feedback.included()
    assert feedback.residual.size == 0
