"""What waits for a server that does not answer: kept, until its plan is given up."""

import asyncio
import socket
import ssl
from pathlib import Path

from legion.ids import Epoch, WorkerId
from legion.reports import MOST_SAMPLES, EvaluationRecord, TextSample
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.outbox import Outbox, report_of
from legion_client.agent.unsent import Unsent
from legion_client.engine.protocol import SliceWritten


async def test_what_is_of_a_plan_given_up_is_waited_for_no_longer(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with Coordinator(url, ssl.create_default_context(), WorkerId("a" * 32), "token") as server:
            outbox = Outbox(server, Unsent(tmp_path / "unsent.jsonl"))
            outbox.add_record(Epoch(1), EvaluationRecord(step=1, loss=2.0, tokens=10))
            written = SliceWritten(step=1, rank=0, tokens=1, path=tmp_path / "gone", sha256="0" * 64, size_bytes=1)
            outbox.add_slice(Epoch(1), written)
            drained = asyncio.create_task(outbox.drained())
            sending = asyncio.create_task(outbox.send_records())
            sending.cancel()
            await asyncio.wait([sending])
            assert not drained.done()
            await outbox.forget(records=True)
            await drained


def test_after_a_long_silence_the_newest_samples_are_sent() -> None:
    evaluations = [EvaluationRecord(step=step, loss=2.0, tokens=10) for step in range(50)]
    samples = [TextSample(step=step, text="x") for step in range(50)]
    both = [record for pair in zip(samples, evaluations, strict=True) for record in pair]
    report = report_of(Epoch(1), both)
    assert report.evaluations == tuple(evaluations)
    assert [sample.step for sample in report.samples] == list(range(50 - MOST_SAMPLES, 50))
