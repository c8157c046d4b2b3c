"""Where the client keeps its files: one home folder, chosen once.

identity/    key, certificate, authority, enrolment.json (all owner-only)
cache/       token shards and tokenizers, each named by its SHA-256; may be deleted at any time
state/       what a member of a run in rounds goes on with when it comes back: one file, one run's; records that the
             server has not acknowledged; and what a card's power limit was, while it is lower
work/        slices between engine and upload; emptied at every start
activity/    what happened, points of the graphs, the month's traffic
logs/        engine.log, agent.log
control/     where the running agent listens for windows and commands, and the lock that says it runs (owner-only)
settings.toml  what the volunteer decided
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from legion.errors import StorageFailed

HOME_VARIABLE = "LEGION_HOME"
ELSEWHERE = f"Make it writable for you, or choose another folder with --home or {HOME_VARIABLE}."


@dataclass(frozen=True, slots=True)
class Home:
    """The client's folder and what lies in it."""

    root: Path

    @classmethod
    def find(cls, chosen: Path | None = None) -> "Home":
        """`chosen`, else $LEGION_HOME, else the platform's place for application data. Creates nothing."""
        named = chosen or os.environ.get(HOME_VARIABLE)
        return cls(Path(named).expanduser().absolute() if named else platformdirs.user_data_path("legion", False))

    def require_writable(self) -> None:
        """Makes the folder, if it is not there. StorageFailed when nothing can be kept in it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as file:
                file.write(b"legion")
        except OSError as error:
            raise StorageFailed(f"{self.root} cannot be written: {error.strerror or error}", hint=ELSEWHERE) from error

    @property
    def identity(self) -> Path:
        return self.root / "identity"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def local_state(self) -> Path:
        return self.state / "local.safetensors"

    @property
    def power_note(self) -> Path:
        return self.state / "power-limit.json"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def engine_log(self) -> Path:
        return self.root / "logs" / "engine.log"

    @property
    def reachability(self) -> Path:
        """How others reach this computer, as was found the last time."""
        return self.activity / "reachability.json"

    @property
    def activity(self) -> Path:
        return self.root / "activity"

    @property
    def agent_log(self) -> Path:
        return self.root / "logs" / "agent.log"

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def settings(self) -> Path:
        return self.root / "settings.toml"
