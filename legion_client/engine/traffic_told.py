"""What went over the line, told to the agent, who counts it for quotas; and that the engine's loop lives."""

import asyncio
import time

from legion.comm.line import Line
from legion_client.engine.links import Links
from legion_client.engine.protocol import PULSE_S, Moved, Pulse
from legion_client.engine.speaker import Report

TRAFFIC_S = 0.25  # between two reports of it: what a crash forgets


class TrafficTold:
    """Since the last report, in short order; that nothing moves any more is told once."""

    def __init__(self, line: Line, links: Links, report: Report) -> None:
        self._line = line
        self._links = links
        self._report = report
        self._told = (0, 0)  # bytes sent and received
        self._moving = False  # when it was told

    async def run(self) -> None:
        """Until cancelled."""
        pulse_at = time.monotonic()
        while True:
            await asyncio.sleep(TRAFFIC_S)
            self.tell()
            if time.monotonic() - pulse_at >= PULSE_S:
                pulse_at = time.monotonic()
                self._report(Pulse())

    def tell(self) -> None:
        sent, received = self._told
        house_sent, house_received = self._links.moved
        upload, download = self._line.upload, self._line.download
        self._told = upload.passed_bytes + house_sent, download.passed_bytes + house_received
        was_moving, self._moving = self._moving, self._told != (sent, received)
        if self._moving or was_moving:
            self._report(Moved(sent_bytes=self._told[0] - sent, received_bytes=self._told[1] - received))
