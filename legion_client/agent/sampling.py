"""What graphs show, taken down every few seconds."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from legion_client.agent.samples import PERIOD_S, Samples
from legion_client.agent.traffic import Traffic
from legion_client.control.messages import Sample
from legion_client.machine.readings import GpuReading, Readings


@dataclass(frozen=True, slots=True)
class Now:
    """`card`: that the engine computes on."""

    tokens_per_s: float
    engine_pid: int | None
    readings: Readings
    card: GpuReading | None


async def sampling(samples: Samples, traffic: Traffic, now: Callable[[], Now]) -> None:
    """Until cancelled."""
    load = Load()
    while True:
        await asyncio.sleep(PERIOD_S)
        is_now = now()
        card, (sent, received) = is_now.card, traffic.since_last()
        samples.add(
            Sample(
                at=time.time(),
                tokens_per_s=is_now.tokens_per_s,
                cpu_load=load.of(is_now.engine_pid),
                gpu_load=card.load if card else None,
                celsius=card.celsius if card else is_now.readings.cpu_celsius,
                watts=card.watts if card else None,
                sent_bytes_per_s=sent / PERIOD_S,
                received_bytes_per_s=received / PERIOD_S,
            )
        )


class Load:
    """Of our engine: 0 to 1 of all cores, since the call before."""

    def __init__(self) -> None:
        self._process: psutil.Process | None = None
        self._cores = psutil.cpu_count() or 1

    def of(self, pid: int | None) -> float | None:
        if pid is None:
            return 0.0
        try:
            if self._process is None or self._process.pid != pid:
                self._process = psutil.Process(pid)
                self._process.cpu_percent()
                return None
            return min(1.0, self._process.cpu_percent() / 100 / self._cores)
        except psutil.Error:
            self._process = None
            return None
