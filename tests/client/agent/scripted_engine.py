"""A process that speaks the engine's side of the protocol and follows a script instead of training.

    python scripted_engine.py SCRIPT.json

The script: steps (how many), die_at, fail_at (with slug and message), card_problem, gate_at (a step; before it the
engine opens the FIFO `gate` beside the script and so waits for the test), hear (how it is prepared and told to train
goes to `prepare.json` and `train.json` beside the script), slice_size (bytes), pulse (once, when it
is prepared), ignore_stop, survive_input, print,
nonsense. Pipe, exit codes and signals are real.
"""

import hashlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

from legion.messages import Device
from legion.reports import EvaluationRecord, StepRecord, TextSample
from legion_client.engine.protocol import (
    COMMANDS,
    Evaluated,
    Failed,
    Finished,
    Left,
    Listening,
    Moved,
    Prepare,
    Pulse,
    Rates,
    Report,
    SliceWritten,
    StepDone,
    Stop,
    Train,
    Wrote,
)

WORK_DIRS: list[Path] = []


def say(report: Report) -> None:
    sys.stdout.write(report.model_dump_json() + "\n")
    sys.stdout.flush()


def step_record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        loss=5.0 - 0.1 * step,
        grad_norm=1.0,
        lr=1e-3,
        step_tokens=2048,
        tokens=1024,
        micro_batches=1,
        step_s=0.1,
        compute_s=0.08,
        waiting_s=0.02,
        sent_bytes=100,
        received_bytes=200,
        peak_rss_bytes=1000,
        state_bytes=500,
    )


def write_slice(command: Train, step: int, size_bytes: int) -> SliceWritten:
    content = bytes(range(256)) * (size_bytes // 256) + bytes(size_bytes % 256)
    path = WORK_DIRS[-1] / f"step-{step}.safetensors"
    path.write_bytes(content)
    tokens = 2048 * step
    sha256 = hashlib.sha256(content).hexdigest()
    return SliceWritten(step=step, rank=0, tokens=tokens, path=path, sha256=sha256, size_bytes=size_bytes)


def train(script: dict[str, object], command: Train) -> bool:
    """Whether the run came to its end."""
    first = command.plan.first_step
    if script.get("moved"):
        say(Moved(sent_bytes=int(str(script["moved"])), received_bytes=0))
    steps = int(str(script.get("steps", 3)))
    for step in range(first, first + steps):
        if script.get("die_at") == step:
            os.kill(os.getpid(), signal.SIGKILL)
        if script.get("gate_at") == step:
            Path(sys.argv[1]).with_name("gate").read_bytes()
        if script.get("fail_at") == step:
            slug, message = str(script.get("slug", "not-finite")), str(script.get("message", "the loss is NaN"))
            say(Failed(slug=slug, message=message, hint="lower the rate", step=step))
            sys.exit(30)
        say(StepDone(record=step_record(step + 1)))
    if script.get("hang"):
        return False
    if script.get("slice_size"):
        say(write_slice(command, first + steps, int(str(script["slice_size"]))))
    say(Wrote(sample=TextSample(step=first + steps, text="def f():")))
    say(Evaluated(record=EvaluationRecord(step=first + steps, loss=2.0, tokens=4096)))
    say(Finished(step=first + steps))
    return True


def main() -> None:
    script = json.loads(Path(sys.argv[1]).read_text())
    sys.stderr.write(f"scripted engine pid={os.getpid()} threads={os.environ.get('OMP_NUM_THREADS')}\n")
    if script.get("print"):
        sys.stdout.write("a library prints a banner\n")
    if script.get("nonsense"):
        sys.stdout.write('{"kind": "nonsense"}\n')
        sys.stdout.flush()
    for line in sys.stdin:
        match COMMANDS.validate_json(line):
            case Prepare() as prepare:
                with socket.socket() as listener:
                    listener.bind((prepare.listen_host, prepare.listen_port))
                    port = listener.getsockname()[1]
                shape = json.loads(Path(sys.argv[1]).with_name("shape.json").read_text())
                WORK_DIRS.append(prepare.work_dir)
                if script.get("hear"):
                    Path(sys.argv[1]).with_name("prepare.json").write_text(line)
                device = Device(kind="cpu", name="scripted", memory_bytes=1)
                say(Listening(port=port, shape=shape, device=device, card_problem=script.get("card_problem")))
                if script.get("pulse"):
                    say(Pulse())
            case Train() as command:
                if script.get("hear"):
                    Path(sys.argv[1]).with_name("train.json").write_text(command.model_dump_json())
                if train(script, command):
                    return
            case Rates():
                Path(sys.argv[1]).with_name("rates.json").write_text(line)
            case Stop():
                if script.get("ignore_stop"):
                    continue
                say(Left(step=1))
                return
    if script.get("survive_input"):
        signal.pause()


if __name__ == "__main__":
    main()
