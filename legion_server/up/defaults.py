"""What `up` trains when nobody says otherwise: the one place with the tuned numbers."""

import json
from collections.abc import Sequence
from typing import Any

from legion.config import ALIASES
from legion.errors import Unusable

# Tuned for one cluster of two with a core each: well under three minutes, and well below 1.95 nats per held-out byte.
TINY: dict[str, Any] = {
    "steps": 320,
    "batch": {"micro_batch_blocks": 8},
    "optimizer": {"lr": 4e-3, "warmup_steps": 30},
}
# The same for two clusters of two on the same two cores, which make their steps at the same time.
TINY_IN_ROUNDS: dict[str, Any] = {"steps": 200, "rounds": {"steps": 20}}
WARMUP_SHARE = 10  # a run shorter than the default warms up for a tenth of its steps at most


def team(workers: int | None, clusters: int | None, *, verify: bool = False) -> tuple[int, int]:
    """Workers and clusters, where neither, one or both are said: clusters of two, and two of them, if that goes.

    What `verify` compares with is one cluster.
    """
    if clusters is None:
        divisible = workers is None or (workers >= 4 and workers % 2 == 0)
        clusters = 2 if divisible and not verify else 1
    return workers or 2 * clusters, clusters


def change(
    *,
    workers: int,
    clusters: int = 1,
    model: str,
    dataset: str,
    steps: int | None,
    codec: str | None,
    settings: Sequence[str],
    verify: bool = False,
) -> dict[str, Any]:
    """The body for PUT /training/config. `settings` are KEY=VALUE with dotted or flat names; they win over the rest.

    `workers` is a multiple of `clusters`. With `verify`, sums keep one order (static claims) and fp32: what is compared
    is arithmetic, not luck with rounding.
    """
    body: dict[str, Any] = {"model": {"preset": model}, "data": {"source": dataset}, "start": {"workers": workers}}
    if model == "tiny":
        _merge(body, TINY)
    if clusters == 1:
        body["cluster"] = {"policy": "one"}
    else:
        _merge(body, {"cluster": {"policy": "fixed", "size": workers // clusters}})
        _merge(body, TINY_IN_ROUNDS if model == "tiny" else {})
    _merge(body, {"batch": {"micro_batches": max(2, workers // clusters)}})  # work for everyone
    if verify:
        _merge(body, {"cluster": {"claims": "static", "precision": "fp32"}})
    if codec is not None:
        body["codecs"] = {"weights": codec, "gradients": codec}
    if steps is not None:
        body["steps"] = steps
        tuned = int(body.get("optimizer", {}).get("warmup_steps", 20))
        _merge(body, {"optimizer": {"warmup_steps": min(tuned, steps // WARMUP_SHARE)}})
    for entry in settings:
        _merge(body, _setting(entry))
    return body


def _setting(entry: str) -> dict[str, Any]:
    key, equals, text = entry.partition("=")
    if not equals or not key:
        raise Unusable(f"--set {entry}: that is not KEY=VALUE", hint="For example --set optimizer.lr=0.002")
    value: Any = _value(text)
    for name in reversed(ALIASES.get(key, tuple(key.split(".")))):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def _value(text: str) -> Any:
    """As JSON where it is JSON, else the text: numbers, true, null, lists, and plain words alike."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _merge(body: dict[str, Any], change: dict[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(body.get(key), dict):
            _merge(body[key], value)
        else:
            body[key] = dict(value) if isinstance(value, dict) else value
