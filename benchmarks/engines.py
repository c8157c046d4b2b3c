"""Real engine processes over their pipe protocol, without a server: identities, data, plan, and what each one used.

Imports no torch: a child's peak memory, as the kernel counts it, never starts below its parent's.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from identities import issue

from legion.config import RunConfig, config_digest
from legion.data.prepare import Prepared, prepare
from legion.messages import CheckpointManifest, Endpoint, Member, Message, Plan
from legion_client.agent import allocator
from legion_client.agent.supervisor import environment
from legion_client.engine.protocol import REPORTS, Failed, Listening, Prepare, SliceWritten, Train


@dataclass
class Engine:
    """One engine process and everything it reported."""

    worker_id: str
    process: "subprocess.Popen[bytes]"
    work_dir: Path
    reports: list[Message] = field(default_factory=list)
    peak_rss_bytes: int = 0

    def tell(self, command: Message) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.model_dump_json().encode() + b"\n")
        self.process.stdin.flush()

    def of(self, kind: type[Any]) -> list[Any]:
        return [report for report in self.reports if isinstance(report, kind)]


class Engines:
    """N engines for one configuration, in the order of their ranks."""

    def __init__(self, config: RunConfig, world: int, folder: Path) -> None:
        self.folder = folder
        self._changed = threading.Condition()
        self.prepared: Prepared = prepare(config.data, seed=config.seed, folder=folder / "data")
        self.config = config.model_copy(update={"data": self.prepared.data})
        self.engines = [self._start(identity) for identity in issue(Path(tempfile.mkdtemp(dir=folder)), world)]
        self._wait_for(lambda engine: engine.of(Listening))

    def _start(self, identity: Any) -> Engine:
        home = Path(tempfile.mkdtemp(dir=self.folder))
        identity.save(home / "identity")
        tuned = allocator.variables(self.config.model)
        variables = environment(os.environ, tuned) | {"OMP_NUM_THREADS": "1", "LEGION_LOG_LEVEL": "warning"}
        process = subprocess.Popen(
            [sys.executable, "-m", "legion_client.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
        )
        engine = Engine(identity.worker_id, process, home)
        threading.Thread(target=self._read, args=(engine,), daemon=True).start()
        engine.tell(
            Prepare(
                config=self.config,
                manifest=self.prepared.manifest,
                identity_dir=home / "identity",
                cache_dir=self.folder / "data",
                work_dir=home,
            )
        )
        return engine

    def _read(self, engine: Engine) -> None:
        assert engine.process.stdout is not None
        for line in engine.process.stdout:
            with self._changed:
                engine.reports.append(REPORTS.validate_json(line))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _wait_for(self, fact: Any) -> None:
        def settled() -> bool:
            return all(fact(e) or e.of(Failed) or e.process.poll() is not None for e in self.engines)

        with self._changed:
            while not settled():
                self._changed.wait(1.0)
        failed = [report for engine in self.engines for report in engine.of(Failed)]
        if failed:
            raise RuntimeError(f"an engine failed: {failed[0].message}")

    def plan(self, *, first_step: int = 0, epoch: int = 1) -> Plan:
        listening = [engine.of(Listening)[0] for engine in self.engines]
        return Plan(
            run_id="run-benchmark",
            epoch=epoch,
            members=tuple(
                Member(worker_id=engine.worker_id, endpoint=Endpoint(host="127.0.0.1", port=heard.port), share=1)
                for engine, heard in zip(self.engines, listening, strict=True)
            ),
            shape=listening[0].shape,
            first_step=first_step,
            config_digest=config_digest(self.config),
        )

    def train(self, *, first_step: int = 0, slices: list[Path | None] | None = None) -> float:
        """Until every engine has ended; the seconds it took. RuntimeError if one did not end well."""
        plan = self.plan(first_step=first_step)
        started = time.perf_counter()
        for rank, engine in enumerate(self.engines):
            engine.tell(Train(plan=plan, resume_slice=slices[rank] if slices else None))
        for engine in self.engines:
            _, status, usage = os.wait4(engine.process.pid, 0)
            engine.peak_rss_bytes = usage.ru_maxrss * 1024
            engine.process.returncode = os.waitstatus_to_exitcode(status)
        took_s = time.perf_counter() - started
        codes = [engine.process.returncode for engine in self.engines]
        if any(codes):
            raise RuntimeError(f"engines ended with {codes}: {[e.of(Failed) for e in self.engines]}")
        return took_s

    def slices(self, step: int) -> list[Path]:
        """Where each rank's slice of the checkpoint after `step` steps lies."""
        return [next(s.path for s in engine.of(SliceWritten) if s.step == step) for engine in self.engines]

    def manifest(self, step: int, tokens: int) -> CheckpointManifest:
        plan = self.plan()
        return CheckpointManifest(
            run_id=plan.run_id,
            epoch=plan.epoch,
            step=step,
            tokens=tokens,
            shares=tuple(member.share for member in plan.members),
            shape=plan.shape,
            config_digest=plan.config_digest,
        )
