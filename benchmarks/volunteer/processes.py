"""Programs that run for the time of a block."""

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

END_S = 30.0


@contextmanager
def running(
    command: list[str], environment: dict[str, str], pass_fds: tuple[int, ...] = ()
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program for the time of the block, then asked to end, then made to."""
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(
        command, env=environment, pass_fds=pass_fds, stdin=nowhere, stdout=nowhere, stderr=nowhere
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
