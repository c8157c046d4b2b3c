"""Real engine processes, spoken to as an agent would: over their pipes, with identities, a plan and prepared data."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from identities import issue

from legion.config import RunConfig, config_digest, merge
from legion.data.prepare import prepare
from legion.identity import Identity
from legion.ids import Epoch, RunId
from legion.messages import DatasetManifest, Endpoint, Member, Message, ModelShape, Plan
from legion_client.engine.protocol import REPORTS, Failed, Listening, Prepare, Report, Train

WAIT_S = 90.0  # for anything that must come, on a machine with other things to do
EPOCH = Epoch(4)
RUN = RunId("run-test")
SEQ_LEN = 32
T = TypeVar("T")

# About 50,000 parameters: thirteen chunks, so that three members share them unevenly.
SMALL: dict[str, Any] = {
    "model": {
        "preset": None,
        "architecture": "llama",
        "settings": {
            "hidden_size": 40,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": SEQ_LEN,
            "tie_word_embeddings": False,
        },
    },
    "batch": {"micro_batches": 4, "micro_batch_blocks": 1},
    "optimizer": {"warmup_steps": 2},
    "cluster": {"policy": "one", "claims": "static"},
    "evaluation": {"max_blocks": 6},
}


@dataclass(frozen=True)
class Dataset:
    """Prepared text, its configuration pinned, and the folder with its files."""

    config: RunConfig
    manifest: DatasetManifest
    folder: Path


def dataset(folder: Path, **change: Any) -> Dataset:
    """A little text whose last block holds few tokens: every epoch of some 20 blocks has one that counts less."""
    text = folder / "text"
    text.mkdir(parents=True)
    for number in range(8):
        (text / f"{number}.txt").write_text(f"{number} bottles of beer on the wall, take {number} down. " * 2)
    config = merge(RunConfig(), SMALL | {"data": {"source": "text", "paths": [str(text)], "seq_len": SEQ_LEN}})
    config = merge(config, change)
    for extra in range(SEQ_LEN):
        (text / "0.txt").write_text("x" * (60 + extra))
        (text / "1.txt").write_text("x" * (60 + extra))
        prepared = prepare(config.data, seed=config.seed, folder=folder / "blobs")
        tokens = sum(shard.tokens for shard in prepared.manifest.train)
        if (tokens - 1) % SEQ_LEN in (2, 3, 4):
            return Dataset(config.model_copy(update={"data": prepared.data}), prepared.manifest, folder / "blobs")
    raise AssertionError("no length of the text leaves a short last block")


class EngineProcess:
    """One engine. Reports are read by a thread, so that several engines can be waited for in turn."""

    def __init__(self, folder: Path, identity: Identity, *, patch: str | None = None) -> None:
        self.identity, self.folder = identity, folder
        self.reports: list[Report] = []
        self.on_report: Callable[[EngineProcess, Report], None] | None = None  # called by the thread that reads
        identity.save(folder / "identity")
        (folder / "work").mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        if patch is not None:
            (folder / "patch").mkdir()
            (folder / "patch" / "sitecustomize.py").write_text(patch)
            environment["PYTHONPATH"] = os.pathsep.join(
                filter(None, (str(folder / "patch"), os.environ.get("PYTHONPATH")))
            )
        self._log = (folder / "engine.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "legion_client.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        self._queue: queue.Queue[Report | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def state_path(self) -> Path:
        return self.folder / "state" / "local.safetensors"

    @property
    def log(self) -> str:
        return (self.folder / "engine.log").read_text(errors="replace")

    def send(self, command: Message) -> None:
        self.send_line(command.model_dump_json().encode())

    def send_line(self, line: bytes) -> None:
        self._stdin.write(line + b"\n")
        self._stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def close_input(self) -> None:
        """As if the agent had died."""
        self._stdin.close()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)

    def wait_for(self, kind: type[T]) -> T:
        """The next report of this kind; a Failed instead is an error of the test."""
        deadline = time.monotonic() + WAIT_S
        while (report := self._queue.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            if isinstance(report, kind):
                return report
            assert not isinstance(report, Failed), report
        raise AssertionError(f"the engine ended without {kind.__name__}:\n{self.log}")

    def until_logged(self, line: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while line not in self.log:
            assert time.monotonic() < deadline, f"never logged: {line}\n{self.log}"

    def until_silent(self, silent_s: float) -> None:
        """It has reported nothing for so long."""
        with contextlib.suppress(queue.Empty):
            while self._queue.get(timeout=silent_s) is not None:
                pass

    def ended(self) -> int:
        """Its exit code; `reports` is complete then."""
        code = self._process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        return code

    def only(self, kind: type[T]) -> T:
        [found] = self.all(kind)
        return found

    def all(self, kind: type[T]) -> list[T]:
        return [report for report in self.reports if isinstance(report, kind)]

    def destroy(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            stream.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            report = REPORTS.validate_json(line)
            self.reports.append(report)
            if self.on_report is not None:
                self.on_report(self, report)
            self._queue.put(report)
        self._queue.put(None)


@dataclass
class Engines:
    """Starts engines and, whatever happens, ends them."""

    folder: Path
    started: list[EngineProcess] = field(default_factory=list)

    def start(self, count: int, *, patches: dict[int, str] | None = None) -> list[EngineProcess]:
        """`count` engines in the order of a plan; `patches`: by rank, run by that process before anything else."""
        folder = self.folder / f"cluster-{len(self.started)}"
        new = [
            EngineProcess(folder / str(rank), identity, patch=(patches or {}).get(rank))
            for rank, identity in enumerate(issue(folder / "authority", count))
        ]
        self.started += new
        return new

    def again(self, before: EngineProcess) -> EngineProcess:
        """The same worker's engine, started anew."""
        engine = EngineProcess(before.folder.with_name(f"{before.folder.name}-again"), before.identity)
        self.started.append(engine)
        return engine

    def destroy(self) -> None:
        for engine in self.started:
            engine.destroy()


def prepared(engines: Iterable[EngineProcess], data: Dataset) -> list[Listening]:
    """All listen."""
    engines = list(engines)
    for engine in engines:
        engine.send(prepare_command(engine, data))
    return [engine.wait_for(Listening) for engine in engines]


def prepare_command(engine: EngineProcess, data: Dataset) -> Prepare:
    return Prepare(
        config=data.config,
        manifest=data.manifest,
        identity_dir=engine.folder / "identity",
        cache_dir=data.folder,
        work_dir=engine.folder / "work",
        state_path=engine.state_path,
    )


def plan_of(
    engines: Sequence[EngineProcess], listening: Sequence[Listening], data: Dataset, *, first_step: int = 0
) -> Plan:
    """Shares grow with the rank: nobody's slice is like another's."""
    members = tuple(
        Member(
            worker_id=engine.identity.worker_id, endpoint=Endpoint(host="127.0.0.1", port=heard.port), share=2 + rank
        )
        for rank, (engine, heard) in enumerate(zip(engines, listening, strict=True))
    )
    return plan_with(members, listening[0].shape, data, first_step)


def plan_with(members: tuple[Member, ...], shape: ModelShape, data: Dataset, first_step: int) -> Plan:
    return Plan(
        run_id=RUN,
        epoch=EPOCH,
        members=members,
        shape=shape,
        first_step=first_step,
        config_digest=config_digest(data.config),
    )


def training(engines: Sequence[EngineProcess], data: Dataset) -> Plan:
    """All have been told to train."""
    plan = plan_of(engines, prepared(engines, data), data)
    for engine in engines:
        engine.send(Train(plan=plan))
    return plan


def with_config(data: Dataset, /, **change: Any) -> Dataset:
    return Dataset(merge(data.config, change), data.manifest, data.folder)


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path
