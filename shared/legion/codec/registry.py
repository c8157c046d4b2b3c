"""Codecs by name (configuration) and by wire id (headers)."""

from collections.abc import Mapping
from typing import TypeVar

from legion.codec.api import AnyCodec, Codec
from legion.codec.bf16 import Bf16
from legion.codec.int2 import Int2
from legion.codec.int4 import Int4
from legion.codec.int8 import Int8
from legion.codec.onebit import OneBit
from legion.codec.plain import Plain
from legion.codec.topk import TopK
from legion.errors import PartInvalid, Unusable

ALL: tuple[Codec, ...] = (Plain(), Bf16(), Int8(), Int4(), Int2(), OneBit())  # of fixed rate
SPARSE: tuple[AnyCodec, ...] = (
    TopK("topk256", 6, kept=256, value_bits=2),  # contributions, 6.25 %
    TopK("topk64", 7, kept=64, value_bits=2),  # contributions, 1.56 %
    TopK("topk240x4", 8, kept=240, value_bits=4),  # updates made of such contributions
)
_BY_NAME = {codec.name: codec for codec in ALL}
_BY_WIRE_ID = {codec.wire_id: codec for codec in ALL}
_ANY_BY_NAME = {codec.name: codec for codec in (*ALL, *SPARSE)}
_ANY_BY_WIRE_ID = {codec.wire_id: codec for codec in (*ALL, *SPARSE)}

Found = TypeVar("Found", bound=AnyCodec)


def by_name(name: str) -> Codec:
    """A codec of fixed rate: what streams of weights and gradients need."""
    return _named(name, _BY_NAME)


def any_by_name(name: str) -> AnyCodec:
    """A codec for contributions and updates."""
    return _named(name, _ANY_BY_NAME)


def by_wire_id(wire_id: int) -> Codec:
    """A codec of fixed rate. PartInvalid for an unknown id: the peer is newer, or broken."""
    return _identified(wire_id, _BY_WIRE_ID)


def any_by_wire_id(wire_id: int) -> AnyCodec:
    """A codec for contributions and updates. PartInvalid for an unknown id: the peer is newer, or broken."""
    return _identified(wire_id, _ANY_BY_WIRE_ID)


def _named(name: str, codecs: Mapping[str, Found]) -> Found:
    try:
        return codecs[name]
    except KeyError:
        raise Unusable(f"no codec is called {name!r} here; there are {', '.join(codecs)}") from None


def _identified(wire_id: int, codecs: Mapping[int, Found]) -> Found:
    try:
        return codecs[wire_id]
    except KeyError:
        raise PartInvalid(f"unknown codec id {wire_id}") from None
