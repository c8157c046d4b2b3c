"""Processes in their namespaces, spoken to in JSON lines; all of them are ended with the block."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from wan.network import Site


class PeerFailed(Exception):
    """A peer ended, or said nothing for too long."""


@dataclass(slots=True)
class Took:
    """One round."""

    seconds: float  # from the word to contribute until the last peer has the result
    results: int  # different ones among the peers; 1 is right
    error: float  # of the mean, relative, where it is largest
    phases: dict[str, float] = field(default_factory=dict)  # s from the start until the last peer was so far
    sent_bytes: list[int] = field(default_factory=list)  # of each site, all headers included
    failure: str = ""


class Peers:
    """`commands`: the program of each site and its arguments, before which comes the namespace's descriptor."""

    def __init__(self, sites: Sequence[Site], commands: Sequence[Sequence[str]], launcher: Sequence[str] = ()) -> None:
        self._sites = sites
        self._commands = commands
        self._launcher = launcher or (sys.executable,)
        self._said: queue.SimpleQueue[tuple[int, dict[str, Any] | None]] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._kept: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        for place, (site, (program, *arguments)) in enumerate(zip(self._sites, self._commands, strict=True)):
            process = subprocess.Popen(
                [*self._launcher, program, str(site.descriptor), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[site.descriptor],
                start_new_session=True,  # a share of the CPU of its own, where the kernel groups by session
                env=os.environ | {"OMP_NUM_THREADS": "1", "LEGION_LOG_LEVEL": "warning"},
            )
            self._processes.append(process)
            threading.Thread(target=self._read, args=(place, process), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _read(self, place: int, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._said.put((place, json.loads(line)))
        self._said.put((place, None))

    def tell(self, place: int, what: Any) -> None:
        stdin = self._processes[place].stdin
        assert stdin is not None
        stdin.write(json.dumps(what).encode() + b"\n")
        stdin.flush()

    def tell_all(self, what: Any) -> None:
        for place in range(len(self._processes)):
            self.tell(place, what)

    def hear(self, patience_s: float) -> dict[str, Any]:
        """What the next peer says, with its place under `peer`. PeerFailed."""
        try:
            place, said = self._said.get(timeout=patience_s)
        except queue.Empty:
            raise PeerFailed(f"no peer said anything for {patience_s:.0f} s") from None
        if said is None:
            raise PeerFailed(f"peer {place} ended with {self._processes[place].wait()}")
        return {"peer": place, **said}

    def keep(self, said: dict[str, Any]) -> None:
        """For the next `await_all`: some are quicker than others."""
        self._kept.append(said)

    def await_all(self, what: str, patience_s: float) -> list[Any]:
        """What each peer says under this word; anything else that they say meanwhile is passed over."""
        found: dict[int, Any] = {said["peer"]: said[what] for said in self._kept if what in said}
        self._kept.clear()
        until_s = time.monotonic() + patience_s
        while len(found) < len(self._processes):
            said = self.hear(max(0.0, until_s - time.monotonic()))
            if what in said:
                found[said["peer"]] = said[what]
        return [found[place] for place in range(len(self._processes))]

    def await_one(self, what: str, place: int, patience_s: float) -> Any:
        """What that peer says under this word next."""
        until_s = time.monotonic() + patience_s
        while True:
            said = self.hear(max(0.0, until_s - time.monotonic()))
            if said["peer"] == place and what in said:
                return said[what]
