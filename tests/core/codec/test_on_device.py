"""What a card encodes is what numpy would have written, bit for bit; torch's own CPU runs the same code everywhere."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from legion.codec import on_device
from legion.codec.api import AnyCodec, Floats
from legion.codec.feedback import Feedback
from legion.codec.on_device import OnDevice, encoder_for
from legion.codec.registry import ALL, SPARSE, any_by_name
from legion.codec.topk import GROUP
from legion.errors import NotFinite
from legion.layout import CHUNK
from tests.core.codec.test_codecs import CHUNKS, kinds, values_of

EVERY: tuple[AnyCodec, ...] = (*ALL, *SPARSE)
every_codec = pytest.mark.parametrize("codec", EVERY, ids=lambda codec: codec.name)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card here")),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def test_only_cuda_cards_encode() -> None:
    codec = any_by_name("int4")
    assert isinstance(encoder_for(torch.device("cuda"))(codec), OnDevice)
    assert encoder_for(torch.device("cpu"))(codec) is codec


@every_codec
@settings(max_examples=60, deadline=None)
@given(names=kinds, seed=st.integers(0, 2**32 - 1))
@example(names=list(CHUNKS), seed=1)
@example(names=[], seed=0)
def test_any_values_give_the_bytes_that_numpy_writes(codec: AnyCodec, names: list[str], seed: int) -> None:
    values = values_of(names, seed)
    try:
        wanted = bytes(codec.encode(values))
    except NotFinite:  # bf16 has no room for the largest float32
        with pytest.raises(NotFinite):
            OnDevice(codec, torch.device("cpu")).encode(values)
    else:
        assert bytes(OnDevice(codec, torch.device("cpu")).encode(values)) == wanted


class NoReciprocals(TorchFunctionMode):
    """Refuses to divide by a number, which CUDA does as a product with its reciprocal: a processor does not show it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.div, torch.Tensor.__truediv__, torch.div, torch.true_divide):
            assert isinstance(args[1], torch.Tensor), "rounded twice on a card"
            assert args[1].dim() > 0, "a number, too, as far as a card is concerned"
        return func(*args, **(kwargs or {}))


@every_codec
def test_nothing_is_divided_by_a_number(codec: AnyCodec) -> None:
    values = np.random.default_rng(4).standard_normal(2 * CHUNK, dtype=np.float32)
    with pytest.raises(AssertionError, match="rounded twice"), NoReciprocals():
        torch.ones(3) / 7
    with NoReciprocals():
        OnDevice(codec, torch.device("cpu")).encode(values)


@every_codec
def test_many_chunks_in_pieces_give_the_same_bytes(
    codec: AnyCodec, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_device, "CARD_PIECE", GROUP)  # of topk's groups, the last one is cut
    values = np.random.default_rng(3).standard_t(3, 201 * CHUNK).astype(np.float32)
    values[: 3 * CHUNK] = np.round(values[: 3 * CHUNK])  # ties
    assert bytes(OnDevice(codec, device).encode(values)) == bytes(codec.encode(values))


@pytest.mark.parametrize("codec", [codec for codec in EVERY if codec.lossy], ids=lambda codec: codec.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(codec: AnyCodec, bad: float, device: torch.device) -> None:
    values = np.ones(2 * CHUNK, np.float32)
    values[CHUNK + 7] = bad
    with pytest.raises(NotFinite):
        OnDevice(codec, device).encode(values)


def test_a_full_card_leaves_it_to_numpy(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(on_device.ENCODERS, "int4", full)
    values = np.random.default_rng(2).standard_normal(3 * CHUNK, dtype=np.float32)
    codec = any_by_name("int4")
    assert bytes(OnDevice(codec, device).encode(values)) == bytes(codec.encode(values))


@pytest.mark.parametrize("name", ["int4", "topk64"])
def test_feedback_around_it_keeps_what_was_dropped(name: str, device: torch.device) -> None:
    codec = any_by_name(name)
    ours, reference = Feedback(OnDevice(codec, device), 4 * CHUNK), Feedback(codec, 4 * CHUNK)
    rng = np.random.default_rng(0)
    for _ in range(3):
        values: Floats = rng.standard_normal(4 * CHUNK, dtype=np.float32)
        assert bytes(ours.encode(values)) == bytes(reference.encode(values))
        ours.included()
        reference.included()
    assert np.array_equal(ours.residual, reference.residual)


@every_codec
def test_it_is_known_by_the_codecs_name_and_decodes_as_the_codec_does(codec: AnyCodec, device: torch.device) -> None:
    values = np.random.default_rng(1).standard_normal(70 * CHUNK, dtype=np.float32)
    ours = OnDevice(codec, device)
    assert (ours.name, ours.wire_id, ours.lossy) == (codec.name, codec.wire_id, codec.lossy)
    assert ours.most_bytes(values.size) == codec.most_bytes(values.size)
    data = memoryview(bytes(ours.encode(values)))
    whole, part, wanted = np.empty_like(values), np.empty(2 * CHUNK, np.float32), np.empty_like(values)
    ours.decode(data, whole)
    ours.decode_range(data, values.size, 65 * CHUNK, part)
    codec.decode(data, wanted)
    assert np.array_equal(whole, wanted)
    assert np.array_equal(part, wanted[65 * CHUNK : 67 * CHUNK])
