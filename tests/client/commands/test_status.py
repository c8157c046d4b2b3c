"""The status as people read it."""

from legion_client.commands.durations import clock
from legion_client.commands.status import lines
from legion_client.control.messages import Contribution, DeviceNow, ModeNow, RunNow, Status, Why
from tests.client.control.front_desk import WAITING

NOW = 1_800_000_000.0
LOST = Why(slug="graphics-lost", sentence="It no longer answers.")


def test_little_is_known() -> None:
    assert list(lines(WAITING, NOW)) == [
        "Waiting for a run",
        "speed     0 tokens/s",
        "accepted  0 tokens",
        "server    none joined yet",
    ]


def test_everything_is_known() -> None:
    full = Status(
        version="1",
        face="paused",
        headline="Paused",
        reasons=(
            Why(slug="battery", sentence="On battery.", setting="power.pause_on_battery"),
            Why(slug="snoozed", sentence="Snoozed.", until=NOW + 900),
        ),
        worker_id="w-1",
        server="rig:8000",
        name="attic",
        modes={"gpu": ModeNow(mode="never", until=NOW + 60)},
        finishing=True,
        tokens_per_s=1234.4,
        run=RunNow(
            run_id="run-1", phase="training", step=1200, steps=4000, round=3, rounds=20, workers=38, loss=3.2714
        ),
        contribution=Contribution(accepted_tokens=8192, rank=39, ranked=412, share=0.0002),
        devices=(
            DeviceNow(kind="cuda", name="RTX 3060", index=1, memory_bytes=12_000_000_000, state="computing"),
            DeviceNow(kind="xpu", name="Intel GPU", index=2, state="unusable", reasons=(LOST,)),
            DeviceNow(kind="cpu", name="CPU", cores=4, memory_bytes=8_000_000_000),
        ),
        progress="model",
        progress_share=0.5,
    )
    assert list(lines(full, NOW)) == [
        "Paused: model (50%)",
        "  - On battery. (setting power.pause_on_battery)",
        f"  - Snoozed. Until {clock(NOW + 900, NOW)}.",
        "  - stops after this round",
        "run       run-1, training, step 1,200 of 4,000, round 3 of 20, 38 workers, loss 3.271",
        "speed     1,234 tokens/s",
        "accepted  8,192 tokens, place 39 of 412, 0.02% of the run",
        f"gpu       never until {clock(NOW + 60, NOW)}",
        "device    RTX 3060, graphics card 1, 12.0 GB: computes now",
        "device    Intel GPU, graphics card 2: It no longer answers.",
        "device    CPU, 4 cores, 8.0 GB: may compute",
        "server    rig:8000",
        "worker    w-1 (attic)",
    ]
