"""The loss of a whole run, thinned by the server: GET /metrics/curve."""

from legion.ids import RunId
from legion.messages import EvaluationRecord, Message


class LossBucket(Message):
    """Steps that lie together: `loss` is their mean over tokens, between the least and the most of any cluster."""

    first: int  # step
    last: int
    tokens: int
    loss: float  # nats a token
    least: float
    most: float


class LossCurve(Message):
    """From the first step on. `width`: steps in a full bucket; 1, 2 or 5 times a power of 10."""

    run_id: RunId
    width: int
    training: tuple[LossBucket, ...]
    validation: tuple[EvaluationRecord, ...]
