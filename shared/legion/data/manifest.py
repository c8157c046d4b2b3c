"""The fingerprint of a dataset: what makes two workers sure that they train on the same blocks."""

import hashlib
import json
from typing import Any

from legion.errors import FingerprintMismatch
from legion.messages import DatasetManifest


def fingerprint_of(manifest: DatasetManifest) -> str:
    """SHA-256 of the manifest without its fingerprint, as JSON with sorted keys, no spaces, ASCII only."""
    body = manifest.model_dump(mode="json", exclude={"fingerprint"})
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(**fields: Any) -> DatasetManifest:
    """A manifest of these fields, with its fingerprint filled in."""
    draft = DatasetManifest(fingerprint="0" * 64, **fields)
    return draft.model_copy(update={"fingerprint": fingerprint_of(draft)})


def check_fingerprint(manifest: DatasetManifest) -> None:
    """FingerprintMismatch unless the manifest says of itself what it is."""
    found = fingerprint_of(manifest)
    if found != manifest.fingerprint:
        raise FingerprintMismatch(f"the manifest claims fingerprint {manifest.fingerprint[:12]} but has {found[:12]}")
