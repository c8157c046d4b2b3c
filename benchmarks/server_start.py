"""How long the server takes from its command to its first answer, and what it loads.

python benchmarks/server_start.py [--repeats 7] [--json FILE]
"""

import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from rows import Row, interval, parser, show

HEAVY = ("torch", "grpc", "transformers", "datasets")
LOADED = f"import sys, legion_server.cli, legion_server.app; print([m for m in {HEAVY} if m in sys.modules])"


def seconds_to_first_answer() -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "legion_server", "serve", "--port", "0", "--data-dir", str(Path(folder) / "data")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            port = next(line.split()[2] for line in server.stdout if line.startswith("listening "))
            unverified = ssl.create_default_context()
            unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
            with urllib.request.urlopen(f"https://127.0.0.1:{port}/health", context=unverified) as answer:
                assert answer.status == 200
            return time.perf_counter() - started
        finally:
            server.terminate()
            server.wait()


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=7)
    options = arguments.parse_args()
    seconds_to_first_answer()  # writes the byte code
    low, middle, high = interval([seconds_to_first_answer() for _ in range(options.repeats)])
    loaded = eval(subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stdout)
    return show(
        "The server's start",
        [
            Row("command to first answer over HTTPS", middle, "s", "<= 2", f"quartiles {low:.2f} to {high:.2f}"),
            Row("heavy packages loaded", len(loaded), "", "<= 0", ", ".join(loaded) or f"none of {', '.join(HEAVY)}"),
        ],
        options.json,
    )


if __name__ == "__main__":
    sys.exit(main())
