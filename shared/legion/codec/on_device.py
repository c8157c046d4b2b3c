"""Encoding where a graphics card has time for it: the same bytes as the codec writes in host memory.

Only selection, rounding and packing happen on the device, with the additions in the same order and one kernel per
rounding, so that what a card writes is what numpy would have written. Decoding stays numpy: it enters digests. Values
that need care (NaN, infinity, sums that could overflow) are numpy's too, and so are all where the card has no room.

Shapes: N chunks of CHUNK elements, which are B blocks of E.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from legion.codec import int2, int4, int8, onebit
from legion.codec.api import AnyCodec, Encoder, Floats, in_host_memory, require_chunks
from legion.codec.blocks import LARGEST_BF16, PARTIAL, SMALLEST_SCALE, as_chunks, pieces
from legion.codec.topk import GROUP, Kept, TopK
from legion.layout import CHUNK

CARD_PIECE = 16 * GROUP  # chunks on the device at a time: 16 MiB of float32, and a few times as much beside it
CAREFUL = 2.0**100  # magnitudes from here on are numpy's: 256 of them could overflow
Encode = Callable[[Tensor], Tensor]


def encoder_for(device: torch.device) -> Encoder:
    """Where the contributions of a member that computes on `device` are written."""
    return partial(OnDevice, device=device) if device.type == "cuda" else in_host_memory


class _NeedsCare(Exception):
    """Numpy's turn."""


class OnDevice:
    """`codec` with its encoder on `device`; needs about 100 MiB there while it encodes."""

    def __init__(self, codec: AnyCodec, device: torch.device) -> None:
        self._codec = codec
        self._device = device

    @property
    def name(self) -> str:
        return self._codec.name

    @property
    def wire_id(self) -> int:
        return self._codec.wire_id

    @property
    def lossy(self) -> bool:
        return self._codec.lossy

    def most_bytes(self, numel: int) -> int:
        return self._codec.most_bytes(numel)

    def encode(self, values: Floats) -> bytes | memoryview:
        require_chunks(values.size)
        try:
            return self._encoded(as_chunks(values))
        except (_NeedsCare, torch.OutOfMemoryError):
            return self._codec.encode(values)

    def _encoded(self, values: Floats) -> bytes | memoryview:
        codec = self._codec
        on_device = (self._there(values[piece]) for piece in pieces(len(values), CARD_PIECE))
        if isinstance(codec, TopK):
            return codec.written(_kept(x_NC, codec.kept) for x_NC in on_device)
        if encode := ENCODERS.get(codec.name):
            return b"".join(encode(x_NC).cpu().numpy().tobytes() for x_NC in on_device)
        return codec.encode(values)  # as it is

    def decode(self, data: memoryview, out: Floats) -> None:
        self._codec.decode(data, out)

    def decode_range(self, data: memoryview, numel: int, start: int, out: Floats) -> None:
        self._codec.decode_range(data, numel, start, out)

    def _there(self, values: Floats) -> Tensor:
        """[N, CHUNK] on the device."""
        x_NC = torch.from_numpy(values).to(self._device)
        low, high = torch.aminmax(x_NC)
        if not (low > -CAREFUL and high < CAREFUL):  # as any NaN
            raise _NeedsCare
        return x_NC


def _kept(chunks: Tensor, kept: int) -> Kept:
    chosen = _largest(chunks, kept)
    positions = chosen.view(-1).nonzero().view(-1)
    bits = chunks.view(torch.int32).view(-1)[positions]
    return Kept(chosen.sum(1).cpu().numpy(), positions.cpu().numpy(), bits.cpu().numpy().view(np.uint32))


def _largest(chunks: Tensor, kept: int) -> Tensor:
    """Flags of the `kept` largest magnitudes of every chunk, the first of equal ones, and none that is negligible."""
    magnitudes = chunks.view(torch.int32) & 0x7FFFFFFF
    least = magnitudes.topk(kept, dim=1, sorted=False).values.amin(1, keepdim=True)
    least = least.clamp_min(int(SMALLEST_SCALE.view(np.uint32)))
    chosen = magnitudes >= least
    surplus = chosen.sum(1, keepdim=True) - kept
    if (surplus > 0).any():
        equal = magnitudes == least
        stay = equal.sum(1, keepdim=True) - surplus
        chosen &= ~(equal & (equal.cumsum(1, dtype=torch.int32) > stay) & (surplus > 0))
    return chosen


def _int8(chunks: Tensor) -> Tensor:
    blocks = chunks.view(-1, int8.BLOCK)
    scale = _not_negligible(_part(blocks.abs().amax(1), 127))
    steps = _steps(blocks, scale)
    return torch.cat([_bytes(scale, len(chunks)), _bytes(steps, len(chunks))], dim=1)


def _int4(chunks: Tensor) -> Tensor:
    blocks = chunks.view(-1, int4.BLOCK)
    halves, scale = _bf16(_not_negligible(_part(blocks.abs().amax(1), 7)), 0xFFFF)
    q_NC = _steps(blocks, scale).add_(8).view(torch.uint8).view(-1, CHUNK)
    packed = q_NC[:, : int4.HALF] | (q_NC[:, int4.HALF :] << 4)
    return torch.cat([_bytes(halves, len(chunks)), packed], dim=1)


def _int2(chunks: Tensor) -> Tensor:
    """See `levels.two_levels`, whose steps these are, for rows that count as a whole."""
    blocks = chunks.abs().view(-1, int2.BLOCK)
    mean = _means(blocks)
    border = mean * int2.BORDER_START
    for step in (1, 2):
        small = blocks <= border[:, None]
        mean_small = _means(torch.where(small, blocks, 0.0))
        of_small = small.sum(1)
        low = mean_small * _share(of_small)
        high = (mean - mean_small) * _share(int2.BLOCK - of_small)
        if step == 1:
            border = low * 0.5 + high * 0.5
    levels = torch.stack([x.view(-1, int2.BLOCKS) for x in (low, torch.maximum(low, high))], dim=1)
    halves, _ = _bf16(_not_negligible(levels), 0x8000)
    return torch.cat([_bytes(halves, len(chunks)), _packed(chunks < 0), _packed((~small).view(-1, CHUNK))], dim=1)


def _share(count: Tensor) -> Tensor:
    return torch.full_like(count, int2.BLOCK, dtype=torch.float32) / count.clamp_min(1).float()


def _bf16_nearest(chunks: Tensor) -> Tensor:
    return _bytes(chunks.to(torch.bfloat16), len(chunks))


def _onebit(chunks: Tensor) -> Tensor:
    halves, _ = _bf16(_not_negligible(_means(chunks.abs().view(-1, onebit.BLOCK))), 0x8000)
    return torch.cat([_bytes(halves, len(chunks)), _packed(chunks < 0)], dim=1)


ENCODERS: dict[str, Encode] = {"bf16": _bf16_nearest, "int8": _int8, "int4": _int4, "int2": _int2, "onebit": _onebit}


def _steps(blocks: Tensor, scale: Tensor) -> Tensor:
    """How many scales every element is, int8; no scale, no steps."""
    return (blocks / torch.where(scale == 0, torch.inf, scale)[:, None]).round_().to(torch.int8)


def _part(largest: Tensor, steps: int) -> Tensor:
    """By a tensor: CUDA multiplies by the reciprocal of a number, which rounds twice."""
    return largest / torch.full_like(largest, steps)


def _not_negligible(scale: Tensor) -> Tensor:
    return torch.where(scale < float(SMALLEST_SCALE), 0.0, scale)


def _bf16(scale: Tensor, carry: int) -> tuple[Tensor, Tensor]:
    """As bf16, rounded as `carry` says (see `blocks`), and what that is in float32."""
    halves = ((scale.view(torch.int32) + carry) >> 16).clamp_max(int(LARGEST_BF16))
    return halves.to(torch.int16), (halves << 16).view(torch.float32)


def _means(blocks: Tensor) -> Tensor:
    """Of every row, added up in the order of `blocks.partial_sums` and `blocks.means_of`."""
    width = blocks.shape[1]
    sums = blocks.view(len(blocks), width // PARTIAL, PARTIAL)
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    row = sums[:, 0]
    while row.shape[1] > 1:
        half = row.shape[1] // 2
        row = row[:, :half] + row[:, half:]
    return row[:, 0] * (1 / width)


def _packed(flags: Tensor) -> Tensor:
    """[N, CHUNK] flags to bytes, lowest bit first."""
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=flags.device)
    return (flags.view(len(flags), -1, 8) * weights).sum(2, dtype=torch.uint8)


def _bytes(field: Tensor, count: int) -> Tensor:
    """[count, ...], little-endian as every card is."""
    return field.contiguous().view(torch.uint8).view(count, -1)
