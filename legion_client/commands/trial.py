"""A run of one member with nobody else: a throwaway authority, text made up on the spot, and a real engine process."""

import asyncio
import logging
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from legion.config import RunConfig, config_digest, merge
from legion.data.prepare import prepare
from legion.errors import EngineDied, by_slug
from legion.identity import Identity
from legion.ids import Epoch, RunId, WorkerId, host_name
from legion.keys import PrivateKey, key_pem, new_key, worker_id_of_key
from legion.messages import DatasetManifest, Endpoint, Member, Plan
from legion.reports import StepRecord
from legion_client.agent.supervisor import COMMAND, Engine
from legion_client.engine.protocol import Failed, Finished, Left, Listening, Prepare, StepDone, Stop, Train

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 2  # memory is claimed and threads are started in the first ones
START_S = 300.0  # for everything but the measured time
STEPS = 1_000_000  # more than any computer does in the time; the engine is told to stop


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured."""

    tokens_per_s: float
    steps: int
    measured_s: float
    device: str
    peak_rss_bytes: int


async def trial(measured_s: float) -> Figures:
    """Trains the preset `tiny` for about `measured_s`. EngineDied with the end of the engine's log when it cannot."""
    with tempfile.TemporaryDirectory(prefix="legion-bench-") as name:
        folder = Path(name)
        config = merge(
            RunConfig(),
            {
                "model": {"preset": "tiny"},
                "cluster": {"policy": "one"},  # there is nobody to average with
                "data": {"source": "distributed_dummy", "seq_len": 256},
                "steps": STEPS,
                "evaluation": {"max_blocks": 1},
                "checkpoint": {"every_steps": STEPS},
            },
        )
        prepared = await asyncio.to_thread(prepare, config.data, seed=config.seed, folder=folder / "data")
        config = config.model_copy(update={"data": prepared.data})
        worker_id = await asyncio.to_thread(_enrol, folder / "identity")
        (folder / "work").mkdir()
        async with Engine.running(COMMAND, folder / "engine.log", {"LEGION_LOG_LEVEL": "warning"}) as engine:
            try:
                async with asyncio.timeout(START_S + measured_s):
                    return await _train(engine, config, prepared.manifest, worker_id, folder, measured_s)
            except TimeoutError as error:
                raise EngineDied(f"the engine trained nothing within {START_S:.0f} s") from error


async def _train(
    engine: Engine, config: RunConfig, manifest: DatasetManifest, worker_id: WorkerId, folder: Path, measured_s: float
) -> Figures:
    await engine.send(
        Prepare(
            config=config,
            manifest=manifest,
            identity_dir=folder / "identity",
            cache_dir=folder / "data",
            work_dir=folder / "work",
        )
    )
    records: list[StepRecord] = []
    device, stopping = "", False
    async for report in engine.reports():
        match report:
            case Listening():
                device = report.device.name
                await engine.send(Train(plan=_alone(config, worker_id, report)))
            case StepDone(record=record):
                records.append(record)
                if not stopping and sum(each.step_s for each in records[WARM_UP_STEPS:]) >= measured_s:
                    stopping = True
                    await engine.send(Stop(reason="measured"))
            case Failed():
                raise by_slug(report.slug, report.message, hint=report.hint)
            case Finished() | Left():
                return _figures(records[WARM_UP_STEPS:], device)
    raise await engine.death()


def _alone(config: RunConfig, worker_id: WorkerId, heard: Listening) -> Plan:
    return Plan(
        run_id=RunId("run-bench"),
        epoch=Epoch(1),
        members=(Member(worker_id=worker_id, endpoint=Endpoint(host="127.0.0.1", port=heard.port), share=1),),
        shape=heard.shape,
        first_step=0,
        config_digest=config_digest(config),
    )


def _figures(records: list[StepRecord], device: str) -> Figures:
    if not records:
        raise EngineDied("the engine ended before a step was measured")
    took_s = sum(record.step_s for record in records)
    return Figures(
        tokens_per_s=sum(record.tokens for record in records) / took_s,
        steps=len(records),
        measured_s=took_s,
        device=device,
        peak_rss_bytes=max(record.peak_rss_bytes for record in records),
    )


def _enrol(folder: Path) -> WorkerId:
    """An identity that an authority signed which nobody else believes; both are gone with the folder."""
    authority_key, key = new_key(), new_key()
    authority = _certificate("legion bench", authority_key, "legion bench", authority_key, authority=True)
    name = host_name(worker_id_of_key(key))
    certificate = _certificate(name, key, "legion bench", authority_key, authority=False)
    Identity(key_pem(key), certificate, authority).save(folder)
    return worker_id_of_key(key)


def _certificate(name: str, key: PrivateKey, issuer: str, issuer_key: PrivateKey, *, authority: bool) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name.replace(" ", "-"))]), critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
