"""A peer of hivemind's averager. Runs in hivemind's own environment, in namespaces of its own.

python hivemind_peer.py NAMESPACE ADDRESS PEER VALUES CODEC ROUNDS; the first peer says where the others find it, each
of them is told. A round is timed from its trigger, when the peers have found one another: hivemind is not charged for
that, Legion has a plan.
"""

import hashlib
import json
import sys
import time
from typing import Any

from kernel import end_with_parent, enter_network

PATIENCE_S = 120.0


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def heard() -> Any:
    line = sys.stdin.readline()
    if not line:
        raise SystemExit("nobody is listening any more")
    return json.loads(line)


def main(address: str, peer: int, values: int, codec: str, rounds: int) -> None:
    import hivemind
    import torch
    from hivemind import compression
    from learning import CHECKED, error_of_mean, learned

    torch.set_num_threads(1)
    codecs = {
        "none": compression.NoCompression,
        "fp16": compression.Float16Compression,
        "uniform8": compression.Uniform8BitQuantization,
    }
    say(ready_for="friends")
    friends = heard()
    dht = hivemind.DHT(initial_peers=friends, host_maddrs=[f"/ip4/{address}/tcp/0"], start=True)
    say(address=[str(found) for found in dht.get_visible_maddrs()])
    heard()
    averager = hivemind.DecentralizedAverager(
        averaged_tensors=[torch.zeros(values)],
        dht=dht,
        start=True,
        prefix="wan",
        target_group_size=4,
        min_group_size=4,
        initial_group_bits="",
        min_matchmaking_time=3.0,
        request_timeout=5.0,
        sender_timeout=60.0,
        reducer_timeout=120.0,
        compression=codecs[codec](),
    )
    for number in range(rounds):
        mine = torch.from_numpy(learned(values, peer, number))
        with averager.get_tensors() as tensors:
            tensors[0].copy_(mine)
        control = averager.step(wait=False, require_trigger=True, timeout=PATIENCE_S, allow_retries=False)
        until_s = time.monotonic() + PATIENCE_S
        while control.stage.name != "AWAITING_TRIGGER" and not control.done() and time.monotonic() < until_s:
            time.sleep(0.02)
        say(ready=number, stage=control.stage.name)
        heard()
        failure, group = "", 0
        try:
            control.allow_allreduce()
            group = len(control.result(PATIENCE_S))
        except Exception as error:  # noqa: BLE001 - whatever it is: the parent is told, and the next round is tried
            failure = f"{type(error).__name__}: {error}"
        done_s = time.monotonic()
        with averager.get_tensors() as tensors:
            found = tensors[0].numpy().copy()
        root = hashlib.sha256(found.tobytes()).hexdigest()
        error_of = error_of_mean(found[:CHECKED], 4, number)
        say(moved=number, done_s=done_s, root=root, error=error_of, group=group, failure=failure)
    heard()  # others may not be done: until we are ended


if __name__ == "__main__":
    end_with_parent()
    enter_network(int(sys.argv[1]))
    main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], int(sys.argv[6]))
