"""What training would compute on, and why not on a card: one line of JSON, for `doctor`.

python -m legion_client.engine.devices
"""

import sys

from pydantic import BaseModel

from legion.messages import Device
from legion.train.device import best_device, cuda_problem, describe


class Found(BaseModel, frozen=True):
    """`card_problem`: see protocol.Listening."""

    device: Device
    card_problem: str | None = None


def main() -> None:
    found = Found(device=describe(best_device()), card_problem=cuda_problem())
    sys.stdout.write(found.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
