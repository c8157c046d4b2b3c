"""What training would compute on, and why not on a card: one line of JSON, for `doctor`.

python -m legion_client.engine.devices
"""

from pydantic import BaseModel

from legion.messages import Device
from legion.train.device import best_device, cuda_problem, describe


class Found(BaseModel, frozen=True):
    """`card_problem`: see protocol.Listening."""

    device: Device
    card_problem: str | None = None


def main() -> None:
    print(Found(device=describe(best_device()), card_problem=cuda_problem()).model_dump_json())  # noqa: T201


if __name__ == "__main__":
    main()
