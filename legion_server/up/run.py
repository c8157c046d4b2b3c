"""One run from the first process to the last line. Read `Run.whole` from top to bottom: this is what `up` does."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from legion.config import RunConfig
from legion.errors import LegionError, RunError, ServerUnreachable, Unusable
from legion.ids import WorkerId
from legion.messages import CheckpointView
from legion.reports import MetricsView
from legion_server.service.slices import SliceFiles
from legion_server.settings import Settings
from legion_server.up import defaults
from legion_server.up.console import Screen
from legion_server.up.folder import RunFolder, new_run
from legion_server.up.options import Options
from legion_server.up.processes import Child, Children, kill_all
from legion_server.up.progress import progress
from legion_server.up.report import Outcome, report, summary, trace, whole_run, write_json
from legion_server.up.resumable import newest_run
from legion_server.up.server import Server

POLL_S = 0.5
START_POLL_S = 0.05
LAST_WORDS_S = 10.0  # for the others to say what they saw, once something has gone wrong
FAREWELL_S = 30.0  # for clients to deliver what is left and go
SERVER_STOP_S = 10.0
CONSEQUENCE = 30  # a client's exit code when its cluster lost another member: not the cause
SIGINT_EXIT_CODE = 130
SAMPLE_PROMPT = "def "
SAMPLE_TOKENS = 240


class EndedEarly(Exception):
    """A process ended before its time, or the run failed: what to say, and the exit code to end with."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


async def up(options: Options, screen: Screen) -> int:
    """The exit code: 0 when the run is complete (and verified, if asked). Raises LegionError for what never started."""
    folder = await newest_run(options.data_dir) if options.resume else new_run(options.data_dir)
    async with Children(screen.line, options.logs_dir) as children, Server() as server:
        run = Run(options, folder, screen, children, server)
        with _on_interrupt(children):
            try:
                return await run.whole()
            except EndedEarly as end:
                screen.say(str(end), "bold red")
                return end.exit_code
            except asyncio.CancelledError:
                screen.say("stopping all processes")
                return SIGINT_EXIT_CODE
            finally:
                await run.wind_down()


class Run:
    """The processes of one run and what is known of it."""

    def __init__(self, options: Options, folder: RunFolder, screen: Screen, children: Children, server: Server) -> None:
        self._options = options
        self._folder = folder
        self._screen = screen
        self._children = children
        self._server = server
        self._server_process: Child | None = None
        self._clients: list[Child] = []
        self._trains = False
        self._in_rounds = False
        self._lost: list[Child] = []  # clients without which the others went on
        self._names: dict[WorkerId, str] = {}
        # Where the server puts what. Not from the environment, which `up` does not hand to its server either.
        self._settings = Settings.model_construct(data_dir=folder.server)
        self._started = time.monotonic()

    async def whole(self) -> int:
        """From nothing to the exit code."""
        server = await self._start_server()
        config = await self._configure()
        self._in_rounds, workers = config.in_rounds, config.start.workers
        invite = await self._server.invite(workers)
        for number in range(1, workers + 1):
            command = self._options.worker_command(self._folder, number, workers, invite)
            self._clients.append(await self._children.start(command))
        self._screen.say(f"status page: {self._server.base_url}/")
        await self._until_complete()
        await self._clients_gone(FAREWELL_S)
        outcome = await self._outcome()
        await self._sample(outcome.checkpoint)
        self._screen.clear_progress()
        for line in summary(outcome):
            self._screen.say(line)
        if self._options.report is not None:
            write_json(self._options.report, report(outcome))
        code = await self._verify(outcome) if self._options.verify else 0
        if self._options.stay and code == 0:
            self._screen.say(f"the server stays at {self._server.base_url}/ until Ctrl-C")
            with contextlib.suppress(asyncio.CancelledError):  # the end that was asked for
                code = await server.ended()
        return code or (self._exit_code() if self._lost else 0)

    async def wind_down(self) -> None:
        """Clients first, so that they can tell the server; then the server. Nothing is left running."""
        self._screen.clear_progress()
        servers = [child for child in self._children.alive if child is self._server_process]
        others = [child for child in self._children.alive if child is not self._server_process]
        for group, within_s in ((others, FAREWELL_S), (servers, SERVER_STOP_S)):
            for child in await self._children.stop(group, within_s):
                self._screen.say(f"{child.name} did not end within {within_s:.0f} s and was killed", "yellow")

    async def _start_server(self) -> Child:
        """Returns once it answers; the port it says itself, as whoever answers on ours may be another program."""
        self._folder.ready_file.unlink(missing_ok=True)
        process = await self._children.start(self._options.server_command(self._folder))
        self._server_process = process
        while not self._folder.ready_file.exists():
            if process.exit_code is not None:
                raise EndedEarly("the server ended while it started; its last line says why", process.exit_code or 1)
            await asyncio.sleep(START_POLL_S)
        host, port = self._folder.ready_file.read_text(encoding="utf-8").split()
        token = self._folder.server / "admin-token"
        self._server.connect(f"http://{host}:{port}", token.read_text(encoding="utf-8").strip())
        return process

    async def _configure(self) -> RunConfig:
        """What is trained, and with how many workers."""
        options = self._options
        if options.resume:
            return await self._resume()
        assert options.workers is not None
        change = defaults.change(
            workers=options.workers,
            clusters=options.clusters,
            model=options.model,
            dataset=options.dataset,
            steps=options.steps,
            codec=options.codec,
            settings=options.settings,
            verify=options.verify,
        )
        config = await self._server.configure(change)
        if options.verify and (config.in_rounds or config.optimizer.name != "adamw"):
            raise Unusable(
                "--verify compares with AdamW in one process, which this configuration is not meant to equal"
            )
        self._screen.say(
            f"training {options.model} on {config.data.source} for {config.steps} steps with {_team(config)}"
        )
        return config

    async def _resume(self) -> RunConfig:
        try:
            await self._server.resume(self._options.workers)
        except RunError:
            # It lacked only the assembly of its last checkpoint, and the server has done that by now.
            if (await self._server.metrics()).phase != "complete":
                raise
        view, config = await self._server.metrics(), await self._server.config()
        self._screen.say(f"resuming {view.run_id} from step {view.step} with {_team(config)}")
        return config

    async def _until_complete(self) -> None:
        """Shows the progress until the run is complete; EndedEarly when it will not be."""
        while True:
            # Noted before the look: who leaves after it may have completed the run since.
            all_left = all(client.exit_code is not None for client in self._clients)
            view = await self._look()
            if view is not None and view.phase == "complete":
                return
            if view is not None and view.phase == "failed":
                raise await self._explained(view.failure or "the run failed")
            if all_left and view is not None and view.phase != "finishing":
                raise await self._explained("all workers left before the run was complete")
            for child in await self._ended_within(POLL_S):
                if child is self._server_process:
                    raise EndedEarly(f"the server ended with exit code {child.exit_code}", child.exit_code or 1)
                if child.exit_code != 0 and not self._others_go_on(child):
                    raise await self._explained(f"{child.name} ended with exit code {child.exit_code}")

    def _others_go_on(self, lost: Child) -> bool:
        """In rounds a cluster ends with its member, and the others train on; that `up` failed is said at its end."""
        if not self._in_rounds or all(client.exit_code is not None for client in self._clients):
            return False
        if lost not in self._lost:
            self._lost.append(lost)
            self._screen.say(f"{lost.name} ended with exit code {lost.exit_code}; other clusters go on", "yellow")
        return True

    async def _look(self) -> MetricsView | None:
        """The metrics, shown; None when the server does not answer, which its process explains soon."""
        try:
            view = await self._server.metrics()
            if len(self._names) < len(self._clients):
                self._names = {worker.worker_id: worker.name for worker in await self._server.workers()}
        except ServerUnreachable:
            return None
        self._trains = view.phase != "waiting"
        if self._trains:
            self._screen.show(progress(view, self._names))
        return view

    async def _ended_within(self, within_s: float) -> list[Child]:
        """The processes that have ended; waits a little for one more."""
        watched = [child for child in (self._server_process, *self._clients) if child is not None]
        tasks = [asyncio.create_task(child.ended()) for child in watched if child.exit_code is None]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        return [child for child in watched if child.exit_code is not None]

    async def _explained(self, sentence: str) -> EndedEarly:
        """The cause, once the workers had time to say it: the server's account of it, and the first exit code."""
        if self._trains:  # before that, nobody knows of anybody
            await self._clients_gone(LAST_WORDS_S)
        with contextlib.suppress(LegionError):
            sentence = (await self._server.metrics()).failure or sentence
        return EndedEarly(sentence, self._exit_code())

    def _exit_code(self) -> int:
        """Of a client that ended as it should not, of the cause rather than its consequences."""
        codes = [client.exit_code for client in self._clients if client.exit_code]
        causes = [code for code in codes if code != CONSEQUENCE]
        return (causes or codes or [RunError.exit_code])[0]

    async def _clients_gone(self, within_s: float) -> None:
        """They leave by themselves once everything they have is delivered."""
        tasks = [asyncio.create_task(client.ended()) for client in self._clients]
        await asyncio.wait(tasks, timeout=within_s)
        for task in tasks:
            task.cancel()

    async def _outcome(self) -> Outcome:
        view = await whole_run(self._server.metrics)
        done = [view for view in await self._server.checkpoints() if view.assembled]
        newest = max(done, key=lambda view: view.step, default=None)
        return Outcome(
            metrics=view,
            wall_s=time.monotonic() - self._started,
            checkpoint=self._checkpoint_folder(newest),
            weights_digest=newest.weights_digest if newest else None,
        )

    def _checkpoint_folder(self, checkpoint: CheckpointView | None) -> Path | None:
        if checkpoint is None:
            return None
        return SliceFiles(self._settings.slices_dir, self._settings.checkpoints_dir).folder(checkpoint.step)

    async def _sample(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            return
        self._screen.say(f"a sample of what the model writes after {SAMPLE_PROMPT!r}:")
        sample = await self._children.start(self._options.sample_command(checkpoint, SAMPLE_PROMPT, SAMPLE_TOKENS))
        if await sample.ended() != 0:
            raise EndedEarly("no text could be generated from the checkpoint", sample.exit_code or 1)

    async def _verify(self, outcome: Outcome) -> int:
        config, manifest = await self._server.config(), await self._server.manifest()
        write_json(self._folder.trace, trace(outcome, config, manifest, self._settings.blobs_dir))
        self._screen.say("verifying: the same blocks in one process with torch.optim.AdamW")
        verify = await self._children.start(self._options.verify_command(self._folder))
        return await verify.ended()


@contextlib.contextmanager
def _on_interrupt(children: Children) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM cancels the current task, which then winds down; the second kills at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    asked = 0

    def heard(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        loop.call_soon_threadsafe(act, asked)

    def act(times: int) -> None:
        if times == 1:
            task.cancel()
        else:
            kill_all([child.pid for child in children.alive])

    for number in signals:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _team(config: RunConfig) -> str:
    count = config.start.workers
    clusters = f" in {count // (config.cluster.size or 1)} clusters" if config.in_rounds else ""
    return f"{count} workers{clusters}"
