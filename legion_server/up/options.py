"""The command line of `up`, and the command lines and environments it makes for others."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from legion_server.up.folder import RunFolder
from legion_server.up.processes import Command

PYTHON = (sys.executable, "-P")  # -P: what lies in the folder that `up` was started in must not be imported
HOST = "127.0.0.1"  # whoever wants other computers to join runs `legion-server serve`


@dataclass(frozen=True)
class Options:
    """What `legion-server up` was asked to do."""

    workers: int | None = 4  # None, when a run is resumed: as many as it had
    clusters: int = 2
    model: str = "tiny"
    dataset: str = "python_stdlib"
    steps: int | None = None
    codec: str | None = None
    settings: tuple[str, ...] = ()  # KEY=VALUE
    logs_dir: Path | None = None
    assembler: bool = True
    report: Path | None = None
    stay: bool = False
    resume: bool = False
    verify: bool = False
    data_dir: Path = Path("legion-data")
    port: int = 8000

    def server_command(self, folder: RunFolder) -> Command:
        arguments = ["serve", "--data-dir", str(folder.server), "--host", HOST, "--port", str(self.port)]
        arguments += ["--ready-file", str(folder.ready_file)]
        if not self.assembler:
            arguments.append("--no-assembler")
        if self.resume:  # before it assembles anything: a run that was complete already is refused
            arguments.append("--resume")
        return Command("server", (*PYTHON, "-m", "legion_server", *arguments), _environment(os.environ))

    def worker_command(self, folder: RunFolder, number: int, workers: int, invite: str) -> Command:
        """The invite goes in by standard input: everybody on a machine can read its list of processes."""
        home = str(folder.worker(number).absolute())
        arguments = ("--no-gui", "--join", "-", "--home", home, "--name", worker_name(number))
        threads = max(1, _usable_cores() // workers)
        environment = {"OMP_NUM_THREADS": str(threads)} | _environment(os.environ) | {"LEGION_UNATTENDED": "1"}
        return Command(worker_name(number), (*PYTHON, "-m", "legion_client", *arguments), environment, stdin=invite)

    def sample_command(self, checkpoint: Path, prompt: str, tokens: int) -> Command:
        arguments = ("generate", "--checkpoint", str(checkpoint), "--prompt", prompt, "--tokens", str(tokens))
        return Command("sample", (*PYTHON, "-m", "legion_client", *arguments), _environment(os.environ))

    def verify_command(self, folder: RunFolder) -> Command:
        arguments = ("-m", "legion_client.engine.reference", "--trace", str(folder.trace))
        return Command("verify", (*PYTHON, *arguments), _environment(os.environ))


def worker_name(number: int) -> str:
    return f"worker-{number}"


def _environment(base: Mapping[str, str]) -> dict[str, str]:
    """Ours; the server's settings in it, LEGION_*, are those of another server than the one we start."""
    own = {key: value for key, value in base.items() if not key.startswith("LEGION_")}
    return own | {"PYTHONUNBUFFERED": "1"}


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
