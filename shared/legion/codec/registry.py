"""Codecs by name (configuration) and by wire id (headers)."""

from legion.codec.api import Codec
from legion.codec.bf16 import Bf16
from legion.codec.int4 import Int4
from legion.codec.int8 import Int8
from legion.codec.onebit import OneBit
from legion.codec.plain import Plain
from legion.errors import PartInvalid, Unusable

ALL: tuple[Codec, ...] = (Plain(), Bf16(), Int8(), Int4(), OneBit())
_BY_NAME = {codec.name: codec for codec in ALL}
_BY_WIRE_ID = {codec.wire_id: codec for codec in ALL}


def by_name(name: str) -> Codec:
    try:
        return _BY_NAME[name]
    except KeyError:
        raise Unusable(f"no codec is called {name!r}; there are {', '.join(_BY_NAME)}") from None


def by_wire_id(wire_id: int) -> Codec:
    """PartInvalid for an unknown id: the peer is newer, or broken."""
    try:
        return _BY_WIRE_ID[wire_id]
    except KeyError:
        raise PartInvalid(f"unknown codec id {wire_id}") from None
