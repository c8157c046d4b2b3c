"""The names of things, as types, so that mypy tells a worker from a run."""

import base64
import hashlib
import secrets
from typing import NewType

WorkerId = NewType("WorkerId", str)  # 32 characters of base32, lower case
RelayId = NewType("RelayId", str)  # as WorkerId, of a relay's key
RunId = NewType("RunId", str)
ClusterId = NewType("ClusterId", str)
Epoch = NewType("Epoch", int)  # number of a cluster's plan; grows with every change of members
Step = NewType("Step", int)  # optimizer steps done before this one, from 0
UnitId = NewType("UnitId", int)  # position of a unit in the model, from 0
Rank = NewType("Rank", int)  # position of a member in the plan, from 0


def worker_id_of(public_key_der: bytes) -> WorkerId:
    """Base32 of the first 160 bits of SHA-256 over the SubjectPublicKeyInfo, lower case, no padding."""
    return WorkerId(base64.b32encode(hashlib.sha256(public_key_der).digest()[:20]).decode().lower())


def host_name(worker_id: WorkerId) -> str:
    """The name in a worker's certificate; it resolves nowhere, peers check it whatever address they dialled."""
    return f"{worker_id}.legion"


def new_run_id() -> RunId:
    return RunId(f"run-{secrets.token_hex(4)}")


def short(worker: WorkerId) -> str:
    """For people: the first 8 characters."""
    return worker[:8]
