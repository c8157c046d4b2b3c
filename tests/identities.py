"""Identities of one throwaway authority, issued by the server's own code."""

import time
from pathlib import Path

from legion.identity import Identity
from legion.keys import key_pem, new_key, signing_request
from legion_server.auth.ca import open_authority


def issue(folder: Path, count: int) -> list[Identity]:
    """`count` enrolled workers, sorted by worker id, as a plan would list them."""
    now = time.time()
    authority = open_authority(folder, now)
    found = []
    for _ in range(count):
        key = new_key()
        _, certificate_pem, _ = authority.sign_worker(signing_request(key), now)
        found.append(Identity(key_pem(key), certificate_pem.encode(), authority.certificate_file.read_bytes()))
    return sorted(found, key=lambda identity: identity.worker_id)
