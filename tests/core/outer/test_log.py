"""The log's arithmetic: strict blobs, the same anchor from any slices, torch's momentum, one digest on every CPU."""

import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from legion.codec.api import AnyCodec, Floats
from legion.codec.registry import ALL, SPARSE, by_name
from legion.errors import PartInvalid
from legion.ids import Rank
from legion.layout import CHUNK, Bounds, Fragment, Layout, spans
from legion.outer.log import HEADER, MAGIC, Anchor, OuterStep, apply, blob_of, update_of, values_of
from legion.rounds import RoundRecord, SpanReport
from tests.core.outer.small_rounds import TOTAL, UNITS, plan_of, record_of

CODECS: tuple[AnyCodec, ...] = (*ALL, *SPARSE)
WIRE_IDS = [codec.wire_id for codec in CODECS]
NUMEL = 3 * CHUNK
PINNED = [
    "28ede8db42f68d2a0b2ddc336b5b6b992f753a1a8d68c18cacbb48cf1b898a72",
    "none 4e95287afb159a86 b63643afca6c7787",
    "bf16 c147cc09d0a0328a 676ca5f3b5f94b8e",
    "int8 8fe87483bf75042f 1eb186d714485a40",
    "int4 78efe20b53646f44 a2ba0e82937b76a2",
]


def random_values(numel: int, seed: int, scale: float = 1.0) -> Floats:
    return (np.random.default_rng(seed).standard_normal(numel) * scale).astype(np.float32)


class Round:
    """A committed round of random updates, and what everybody needs to apply it."""

    def __init__(self, number: int, span_count: int, codec: AnyCodec) -> None:
        plan = plan_of(number, span_count=span_count)
        self.blobs: dict[str, bytes] = {}
        self.read: list[str] = []
        reports = []
        for span, span_plan in enumerate(plan.spans):
            blob = blob_of(codec, random_values(len(span_plan.bounds), 100 * number + span, 0.01))
            digest = f"{number:032}{span:032}"
            self.blobs[digest] = blob
            reports.append(
                SpanReport(round=number, span=span, term=0, digest=digest, size_bytes=len(blob), included=())
            )
        self.record: RoundRecord = record_of(plan, reports)

    def blob(self, digest: str) -> bytes:
        self.read.append(digest)
        return self.blobs[digest]

    @property
    def update(self) -> Floats:
        """Of all spans, one after the other."""
        found = [
            values_of(self.blobs[span.digest], stop - start)
            for span, (start, stop) in zip(self.record.spans, self.record.bounds, strict=True)
        ]
        return np.concatenate(found)


def whole(values: Floats, momentum: Floats | None = None) -> Anchor:
    return Anchor(values.copy(), None if momentum is None else momentum.copy())


def everything(span: Bounds) -> tuple[Fragment, ...]:
    return (Fragment(span, span.start, 0),)


# Blobs.


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_blob_gives_what_its_codec_gives_whole_or_in_ranges(codec: AnyCodec) -> None:
    values = random_values(NUMEL, 1)
    update = update_of(blob_of(codec, values), NUMEL)
    expected = np.empty(NUMEL, np.float32)
    codec.decode(memoryview(codec.encode(values)), expected)
    assert np.array_equal(update.values(0, NUMEL), expected)
    assert np.array_equal(update.values(CHUNK, 2 * CHUNK), expected[CHUNK : 2 * CHUNK])


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_blob_of_another_length_or_span_is_refused(codec: AnyCodec) -> None:
    blob = blob_of(codec, random_values(NUMEL, 1))
    for wrong in (blob[:-1], blob + b"\0", blob + bytes(len(blob)), blob[: HEADER.size], blob[:5], b""):
        with pytest.raises(PartInvalid):
            values_of(wrong, NUMEL)
    for numel in (0, NUMEL - CHUNK, NUMEL + CHUNK):
        with pytest.raises(PartInvalid, match="no update of a span"):
            update_of(blob, numel)


def test_another_format_or_codec_is_refused() -> None:
    blob = blob_of(by_name("int8"), random_values(NUMEL, 1))
    with pytest.raises(PartInvalid, match="no update"):
        update_of(b"LGU2" + blob[4:], NUMEL)
    with pytest.raises(PartInvalid, match="codec id 4000000000"):
        update_of(MAGIC + struct.pack("<I", 4_000_000_000) + blob[8:], NUMEL)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_never_reaches_an_anchor(bad: float) -> None:
    values = random_values(NUMEL, 1)
    values[2 * CHUNK] = bad
    update = update_of(blob_of(by_name("none"), values), NUMEL)
    with pytest.raises(PartInvalid, match="NaN or infinity"):
        update.values(0, NUMEL)


@settings(max_examples=150, deadline=None)
@given(
    head=st.one_of(
        st.binary(max_size=HEADER.size + 8),
        st.builds(
            HEADER.pack,
            st.just(MAGIC),
            st.one_of(st.sampled_from(WIRE_IDS), st.integers(0, 2**32 - 1)),
            st.one_of(st.just(NUMEL), st.integers(0, 2**64 - 1)),
        ),
    ),
    tail=st.binary(max_size=2000),
    numel=st.sampled_from([0, CHUNK, NUMEL, 2**40 * CHUNK]),
)
def test_any_bytes_are_an_update_or_an_error(head: bytes, tail: bytes, numel: int) -> None:
    """Whatever a header claims, and however large the span is: nothing is allocated for what is not there."""
    tracemalloc.start()
    try:
        update = update_of(head + tail, numel)
        if numel <= NUMEL:
            assert np.isfinite(update.values(0, numel)).all()
    except PartInvalid:
        pass
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < 2_000_000


@settings(max_examples=60, deadline=None)
@given(codec=st.sampled_from(CODECS), seed=st.integers(0, 999), flips=st.lists(st.integers(0, 10**6), max_size=4))
def test_damaged_blobs_are_an_update_or_an_error(codec: AnyCodec, seed: int, flips: list[int]) -> None:
    blob = bytearray(blob_of(codec, random_values(NUMEL, seed)))
    for flip in flips:
        blob[flip % len(blob)] ^= 1 << (flip % 8)
    try:
        assert np.isfinite(values_of(bytes(blob), NUMEL)).all()
    except PartInvalid:
        assert flips


# Apply.


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("span_count", [1, 4, 6])
@pytest.mark.parametrize("shares", [(1,), (1, 1), (1, 3), (2, 1, 2), (1, 1, 1, 1, 1, 1)])
def test_slices_of_any_layout_become_what_the_whole_becomes(
    codec: AnyCodec, span_count: int, shares: tuple[int, ...]
) -> None:
    layout = Layout(UNITS, shares)
    rounds = [Round(number, span_count, codec) for number in range(2)]
    outer = OuterStep(lr=0.7, momentum=0.9)
    theta, momentum = random_values(TOTAL, 1), np.zeros(TOTAL, np.float32)
    expected = whole(theta, momentum)
    for one in rounds:
        apply(expected, one.record, everything, one.blob, outer)
    assert expected.momentum is not None
    for rank in layout.ranks:
        held = layout.fragments(rank, Bounds(0, TOTAL))
        anchor = whole(of(theta, held), of(momentum, held))
        for one in rounds:
            apply(anchor, one.record, holding(layout, rank), one.blob, outer)
        assert np.array_equal(anchor.values, of(expected.values, held))
        assert anchor.momentum is not None
        assert np.array_equal(anchor.momentum, of(expected.momentum, held))


def of(values: Floats, held: Sequence[Fragment]) -> Floats:
    return np.concatenate([values[fragment.flat.start : fragment.flat.stop] for fragment in held])


class holding:  # noqa: N801  a function with a name
    def __init__(self, layout: Layout, rank: Rank) -> None:
        self.layout, self.rank = layout, rank

    def __call__(self, span: Bounds) -> tuple[Fragment, ...]:
        return self.layout.fragments(self.rank, span)


def test_blobs_of_spans_that_one_holds_nothing_of_are_not_read() -> None:
    layout, one = Layout(UNITS, (1, 1, 1)), Round(0, 6, by_name("none"))
    anchor = Anchor(np.zeros(layout.owned(Rank(0)), np.float32))
    apply(anchor, one.record, holding(layout, Rank(0)), one.blob, OuterStep())
    met = [s for s, span in enumerate(spans(TOTAL, 6)) if layout.fragments(Rank(0), span)]
    assert one.read == [one.record.spans[s].digest for s in met]
    assert 0 < len(met) < 6


def test_spans_larger_than_a_piece_are_applied_whole() -> None:
    """More than one piece of work, and one that is not full."""
    numel = 130 * CHUNK
    values, theta = random_values(numel, 1), random_values(numel, 2)
    plan = plan_of().model_copy(update={"spans": (plan_of().spans[0].model_copy(update={"start": 0, "stop": numel}),)})
    report = SpanReport(round=0, span=0, term=0, digest="0" * 64, size_bytes=1, included=())
    anchor = whole(theta)
    blob = blob_of(by_name("none"), values)
    apply(anchor, record_of(plan, [report]), everything, lambda _: blob, OuterStep())
    assert np.array_equal(anchor.values, theta - values)


@pytest.mark.parametrize("lr", [1.0, 0.7])
@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.9])
def test_the_outer_step_is_torchs_sgd(lr: float, momentum: float) -> None:
    """torch.optim.SGD over the same updates, in float64; ours differs by roundings of float32."""
    theta = random_values(TOTAL, 1)
    anchor = whole(theta, np.zeros(TOTAL, np.float32) if momentum else None)
    parameter = torch.nn.Parameter(torch.from_numpy(theta.astype(np.float64)))
    sgd = torch.optim.SGD([parameter], lr=lr, momentum=momentum, nesterov=momentum > 0)
    for number in range(12):
        one = Round(number, 2, by_name("int4"))
        apply(anchor, one.record, everything, one.blob, OuterStep(lr, momentum))
        parameter.grad = torch.from_numpy(one.update.astype(np.float64))
        sgd.step()
    assert np.allclose(anchor.values, parameter.detach().numpy(), rtol=0, atol=12 * 2.0**-22)
    assert not np.allclose(anchor.values, theta, atol=1e-3)


# One digest on every CPU.

ROOTS = """
import sys
import numpy as np
from legion import digest
from legion.codec.registry import ALL, SPARSE
from legion.layout import Bounds, Fragment
from legion.messages import TensorShape, UnitShape
from legion.model.init import Theta0, fill
from legion.outer.log import Anchor, OuterStep, apply
from legion.outer.reducer import Closing, SpanReducer
from tests.core.outer.small_rounds import SHARES, TOTAL, cut, fragments_of, part_key, plan_of, record_of, worker_of
if "torch" in sys.argv:
    import torch
    torch.ones(9).sum()
unit = UnitShape(name="u", tensors=(TensorShape(name="q.weight", shape=(60, 401)),))
theta = np.empty(TOTAL, np.float32)
fill(theta, unit, 0, Theta0(3, 0.05, 2))
print(digest.root(digest.leaves(theta)))
anchor, residual = Anchor(theta, np.zeros_like(theta)), None
# Integers and two roundings each: what is contributed does not depend on the processor either.
whole = np.random.default_rng(5).integers(-(1 << 20), 1 << 20, (9, 3, TOTAL))
given = np.multiply(np.multiply(whole, np.float32(2.0**-24), dtype=np.float32), np.float32(0.3))
for number, codec in enumerate((*ALL, *SPARSE)):
    plan = plan_of(number, span_count=1)
    over = "senders" if number % 2 else "participants"
    reducer = SpanReducer(plan, 0, 0, closing=Closing(0.6, 5.0), mean_over=over, opened_s=0.0)
    for place, cluster in enumerate(SHARES):
        values = given[number, place] * np.float32(1 + 3 * place)
        for rank in range(len(SHARES[cluster])):
            data = bytes(codec.encode(cut(values, fragments_of(plan, 0, cluster, rank))))
            key = part_key(plan, 0, cluster, rank, codec, data, tokens=1000 + 7 * place)
            reducer.offer(worker_of(cluster, rank), key, data)
    blob, report, residual = reducer.reduce(residual, codec)
    holds = lambda span: (Fragment(span, span.start, 0),)
    apply(anchor, record_of(plan, [report]), holds, lambda _: blob, OuterStep(0.7, 0.9))
    print(codec.name, digest.root(digest.leaves(anchor.values))[:16], digest.root(digest.leaves(anchor.momentum))[:16])
"""

DISPATCHED = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]  # numpy refuses to disable others
LOWER = {f"numpy below {name}": " ".join(DISPATCHED[at:]) for at, name in enumerate(DISPATCHED)}
SETTINGS = {
    "torch default": {"ATEN_CPU_CAPABILITY": "default"},
    "torch avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "torch avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
    **{name: {"NPY_DISABLE_CPU_FEATURES": features} for name, features in LOWER.items()},
}


def roots_under(name: str, variables: dict[str, str]) -> str:
    """What is printed; a warning, such as numpy's about a feature that cannot be disabled, is an error."""
    argv = [sys.executable, "-W", "error", "-c", ROOTS, *(["torch"] if name.startswith("torch") else [])]
    root = Path(__file__).parents[3]
    done = subprocess.run(argv, cwd=root, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def roots() -> str:
    return roots_under("as it is", {})


@pytest.mark.parametrize("name", SETTINGS)
def test_start_means_updates_and_momentum_are_the_same_on_every_processor(name: str, roots: str) -> None:
    """theta_0, then a round with each codec: contributions, mean, update, apply with momentum."""
    assert roots_under(name, SETTINGS[name]) == roots


def test_roots_are_pinned(roots: str) -> None:
    """Another root would part a run from what it was before an update of Legion."""
    lines = roots.splitlines()
    assert len(lines) == 1 + len(CODECS)
    assert lines[: len(PINNED)] == PINNED
