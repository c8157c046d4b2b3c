from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CopyName(_message.Message):
    __slots__ = ("epoch", "step", "rank")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    step: int
    rank: int
    def __init__(self, epoch: _Optional[int] = ..., step: _Optional[int] = ..., rank: _Optional[int] = ...) -> None: ...

class CopyPiece(_message.Message):
    __slots__ = ("name", "size_bytes", "payload")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    name: CopyName
    size_bytes: int
    payload: bytes
    def __init__(self, name: _Optional[_Union[CopyName, _Mapping]] = ..., size_bytes: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class CopyRequest(_message.Message):
    __slots__ = ("name", "offset", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: CopyName
    offset: int
    size_bytes: int
    def __init__(self, name: _Optional[_Union[CopyName, _Mapping]] = ..., offset: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BurstRequest(_message.Message):
    __slots__ = ("size_bytes",)
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    def __init__(self, size_bytes: _Optional[int] = ...) -> None: ...

class BurstPiece(_message.Message):
    __slots__ = ("payload",)
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    def __init__(self, payload: _Optional[bytes] = ...) -> None: ...

class BurstReply(_message.Message):
    __slots__ = ("received_bytes", "bytes_per_s")
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    received_bytes: int
    bytes_per_s: float
    def __init__(self, received_bytes: _Optional[int] = ..., bytes_per_s: _Optional[float] = ...) -> None: ...

class PartPiece(_message.Message):
    __slots__ = ("key", "payload")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    payload: bytes
    def __init__(self, key: _Optional[bytes] = ..., payload: _Optional[bytes] = ...) -> None: ...

class BlobRequest(_message.Message):
    __slots__ = ("sha256", "offset")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    offset: int
    def __init__(self, sha256: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class BlobPiece(_message.Message):
    __slots__ = ("payload",)
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    def __init__(self, payload: _Optional[bytes] = ...) -> None: ...

class UpdateRequest(_message.Message):
    __slots__ = ("round", "span", "term")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    round: int
    span: int
    term: int
    def __init__(self, round: _Optional[int] = ..., span: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class UpdatePiece(_message.Message):
    __slots__ = ("sha256", "size_bytes", "payload")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    payload: bytes
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("header", "crc", "payload")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CRC_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    header: PartHeader
    crc: int
    payload: bytes
    def __init__(self, header: _Optional[_Union[PartHeader, _Mapping]] = ..., crc: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("step", "unit")
    STEP_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    step: int
    unit: int
    def __init__(self, step: _Optional[int] = ..., unit: _Optional[int] = ...) -> None: ...

class PartHeader(_message.Message):
    __slots__ = ("step", "unit", "codec", "numel", "size_bytes", "batches", "tokens")
    STEP_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    NUMEL_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    step: int
    unit: int
    codec: int
    numel: int
    size_bytes: int
    batches: _containers.RepeatedScalarFieldContainer[int]
    tokens: int
    def __init__(self, step: _Optional[int] = ..., unit: _Optional[int] = ..., codec: _Optional[int] = ..., numel: _Optional[int] = ..., size_bytes: _Optional[int] = ..., batches: _Optional[_Iterable[int]] = ..., tokens: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClaimRequest(_message.Message):
    __slots__ = ("step", "serial", "batch_count", "rests")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    BATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    RESTS_FIELD_NUMBER: _ClassVar[int]
    step: int
    serial: int
    batch_count: int
    rests: bool
    def __init__(self, step: _Optional[int] = ..., serial: _Optional[int] = ..., batch_count: _Optional[int] = ..., rests: _Optional[bool] = ...) -> None: ...

class ClaimReply(_message.Message):
    __slots__ = ("index",)
    INDEX_FIELD_NUMBER: _ClassVar[int]
    index: int
    def __init__(self, index: _Optional[int] = ...) -> None: ...

class BallotMessage(_message.Message):
    __slots__ = ("step", "ok", "norm_squared", "loss_sum", "batches", "tokens", "reason", "batch_count", "evaluation", "border", "ready", "late", "keep")
    STEP_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    NORM_SQUARED_FIELD_NUMBER: _ClassVar[int]
    LOSS_SUM_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    BORDER_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    ok: bool
    norm_squared: float
    loss_sum: float
    batches: _containers.RepeatedScalarFieldContainer[int]
    tokens: int
    reason: str
    batch_count: int
    evaluation: bool
    border: bool
    ready: int
    late: bool
    keep: bool
    def __init__(self, step: _Optional[int] = ..., ok: _Optional[bool] = ..., norm_squared: _Optional[float] = ..., loss_sum: _Optional[float] = ..., batches: _Optional[_Iterable[int]] = ..., tokens: _Optional[int] = ..., reason: _Optional[str] = ..., batch_count: _Optional[int] = ..., evaluation: _Optional[bool] = ..., border: _Optional[bool] = ..., ready: _Optional[int] = ..., late: _Optional[bool] = ..., keep: _Optional[bool] = ...) -> None: ...

class VerdictMessage(_message.Message):
    __slots__ = ("commit", "norm_squared", "loss_sum", "tokens", "reason", "ready", "late", "keep")
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    NORM_SQUARED_FIELD_NUMBER: _ClassVar[int]
    LOSS_SUM_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    commit: bool
    norm_squared: float
    loss_sum: float
    tokens: int
    reason: str
    ready: int
    late: bool
    keep: bool
    def __init__(self, commit: _Optional[bool] = ..., norm_squared: _Optional[float] = ..., loss_sum: _Optional[float] = ..., tokens: _Optional[int] = ..., reason: _Optional[str] = ..., ready: _Optional[int] = ..., late: _Optional[bool] = ..., keep: _Optional[bool] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Presence(_message.Message):
    __slots__ = ("leaving", "reason")
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    leaving: bool
    reason: str
    def __init__(self, leaving: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...
