"""`auto`: the richest codec whose bits fit a sender's share of the round on its uplink.

Dense before sparse: four bits cost no loss in any trial, two and one bits with feedback little, and sparsity pays only
over many rounds (Streaming DiLoCo, arXiv 2501.18512; SparseLoCo, arXiv 2508.15706; first trials of our own).
"""

from collections.abc import Sequence

from legion.codec.api import AnyCodec, bits_per_value
from legion.codec.registry import any_by_name

LADDER: tuple[AnyCodec, ...] = tuple(map(any_by_name, ("int4", "int2", "onebit", "topk256", "topk64")))


def choose(numel: int, bits_per_second: float, seconds: float, ladder: Sequence[AnyCodec] = LADDER) -> str:
    """The name of the first rung whose largest encoding of `numel` elements leaves in `seconds`.

    `numel` is a whole number of chunks; `ladder` goes from rich to thin. The thinnest where none fits: a contribution
    that comes late is not lost, it rides with the next.
    """
    budget = bits_per_second * seconds
    fitting = (codec for codec in ladder if codec.most_bytes(numel) * 8 <= budget)
    return next(fitting, ladder[-1]).name


def for_flush(codec: AnyCodec) -> AnyCodec:
    """The codec itself, or int4 where that is richer: a flush is dense, on its way up and in the update."""
    return max(codec, LADDER[0], key=bits_per_value)


def rungs(ladder: Sequence[AnyCodec] = LADDER) -> dict[str, float]:
    """Bits per element that each rung needs at most."""
    return {codec.name: bits_per_value(codec) for codec in ladder}
