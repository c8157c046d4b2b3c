"""What `doctor` looks at. Every check tries the real thing: a file, a connection, a child process."""

import asyncio
import json
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import psutil

from legion.check import Check
from legion.errors import AgentNotRunning, LegionError, WrongAuthority
from legion.identity import fingerprint
from legion.tls_transport import TlsTransport
from legion_client.agent.coordinator import Coordinator, naming_server
from legion_client.agent.enrolment import Enrolment
from legion_client.agent.supervisor import COMMAND
from legion_client.commands.reachability import reachability
from legion_client.commands.status import told
from legion_client.control.client import Control
from legion_client.control.messages import DeviceNow, Status
from legion_client.machine.gpu_other import build_problem
from legion_client.machine.hardware import devices, lasting, processor
from legion_client.machine.readings import Readings
from legion_client.machine.schedule import local_time
from legion_client.machine.sensors import cards_once
from legion_client.paths import Home
from legion_client.settings import SettingsFile, read

try:
    import pynvml
except ImportError:  # the 'client' extra is not installed: the check of the engine says so
    pynvml = None

MOST_SKEW_S = 60.0  # certificates and invites name times
ENGINE_S = 180.0  # torch reads a gigabyte from a cold disk
SERVER_S = 15.0
DEVICES = (sys.executable, "-P", "-m", "legion_client.engine.devices")
NO_CARD = "no card"


async def examine(home: Home) -> list[Check]:
    """All checks, in the order in which they build on each other. Changes nothing."""
    settings = read(home.settings)
    known, identity = _identity(home)
    agent, status = await _agent(home)
    checks = [_home(home), _settings(settings), identity, agent]
    checks += await _server(known)
    running = agent.state != "skipped"
    checks += [_disk(home, settings), _port(settings, running=running)]
    checks += await reachability(home, known, settings.settings, running=running)
    checks.append(await _engine())
    checks.append(_without_driver(await _graphics(_driver())))
    checks += await _devices(settings, status)
    return checks


def _home(home: Home) -> Check:
    folder = home.root
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"legion")
    except OSError as error:
        advice = "Make it writable for you, or choose another folder with --home or LEGION_HOME."
        return Check("home", "problem", f"{home.root} cannot be written: {error.strerror}", advice)
    return Check("home", "ok", str(home.root))


def _settings(found: SettingsFile) -> Check:
    if found.problem:
        return Check("settings", "problem", found.problem, "Correct the file, or move it away for the defaults.")
    changed = f"{len(found.chosen)} changed by you" if found.chosen else "all as they come"
    return Check("settings", "ok", changed)


def _identity(home: Home) -> tuple[Enrolment | None, Check]:
    try:
        known = Enrolment.load(home.identity)
    except LegionError as error:
        return None, Check("identity", "problem", str(error), error.hint)
    if known is None:
        return None, Check(
            "identity", "problem", "this computer has joined no server yet", "Join one: legion-client join FILE."
        )
    return known, Check("identity", "ok", f"{known.worker_id} at {known.base_url}")


async def _agent(home: Home) -> tuple[Check, Status | None]:
    try:
        status = await Control(home).status()
    except AgentNotRunning as error:
        return Check("agent", "skipped", str(error)), None
    except LegionError as error:
        return Check("agent", "problem", str(error), error.hint), None
    return Check("agent", "ok", f"Legion {status.version} runs: {status.headline}"), status


async def _server(known: Enrolment | None) -> list[Check]:
    if known is None:
        return [Check(name, "skipped", "no server joined") for name in ("server", "clock")]
    authority = fingerprint(known.identity.authority_pem)
    try:
        async with asyncio.timeout(SERVER_S):
            skew_s = await _skew(known)
            async with Coordinator(known.base_url, known.context, known.worker_id, known.token) as server:
                await server.config()
    except TimeoutError:
        problem = Check("server", "problem", f"{known.base_url} does not answer", "Check your connection.")
    except WrongAuthority as error:
        problem = Check("server", "problem", f"{error}; its authority should be {authority}", error.hint)
    except LegionError as error:
        problem = Check("server", "problem", str(error), error.hint)
    else:
        found = f"{known.base_url} answers, TLS 1.3, authority {authority}"
        return [Check("server", "ok", found), _clock(skew_s)]
    return [problem, Check("clock", "skipped", "the server could not be asked for the time")]


async def _skew(known: Enrolment) -> float | None:
    """Our clock against the server's, s; None when it does not say."""
    with naming_server(known.base_url):
        transport = TlsTransport(verify=known.context, trust_env=False)
        async with httpx.AsyncClient(transport=transport, timeout=SERVER_S) as http:
            response = await http.get(f"{known.base_url}/ca.pem")
    date = response.headers.get("date")
    return None if date is None else time.time() - parsedate_to_datetime(date).timestamp()


def _clock(skew_s: float | None) -> Check:
    if skew_s is None:
        return Check("clock", "skipped", "the server does not say what time it is")
    if abs(skew_s) > MOST_SKEW_S:
        which = "ahead of" if skew_s > 0 else "behind"
        advice = "Let the system set its clock from the network; certificates need the right time."
        return Check("clock", "problem", f"this clock is {abs(skew_s):.0f} s {which} the server's", advice)
    return Check("clock", "ok", "within a minute of the server's")


def _disk(home: Home, found: SettingsFile) -> Check:
    folder = home.root
    while not folder.exists():
        folder = folder.parent
    free, least = psutil.disk_usage(str(folder)).free, found.settings.disk.least_free_gb
    text = f"{free / 1e9:.1f} GB free, {least:g} GB are to stay free"
    if free < least * 1e9:
        return Check("disk", "problem", text, "Free disk space, or lower disk.least_free_gb.")
    return Check("disk", "ok", text)


def _port(found: SettingsFile, *, running: bool) -> Check:
    """Whether this computer can be reached at the port by itself; what a router does is known to the server alone."""
    port = found.settings.listen_port
    if running and port:
        return Check("port", "skipped", f"{port} is the running agent's")
    host = found.settings.listen_host or "127.0.0.1"
    try:
        with closing(socket.create_server((host, port))) as listening:
            listening.settimeout(5.0)
            with closing(socket.create_connection(listening.getsockname()[:2], timeout=5.0)):
                listening.accept()[0].close()
    except OSError as error:
        advice = "Choose another with listen_host and listen_port, or let a firewall allow it."
        return Check("port", "problem", f"{host}:{port or 'any'} cannot be reached: {error}", advice)
    return Check("port", "ok", f"{host}:{port or 'any'} can be reached from this computer")


async def _engine() -> Check:
    """The engine itself, without a command: it loads everything, finds nobody to talk to, and ends with 0."""
    advice = "Install Legion again with its 'client' extra: pip install 'legion-training[client]'."
    began = time.monotonic()
    try:
        status, _, words = await _said(COMMAND)
    except OSError as error:
        return Check("engine", "problem", f"{sys.executable} cannot be started: {error.strerror}", advice)
    except TimeoutError:
        return Check("engine", "problem", f"it was not loaded within {ENGINE_S:.0f} s", "Look at the disk's health.")
    if status != 0:
        last = words.decode(errors="replace").strip().splitlines()
        return Check("engine", "problem", f"it cannot be loaded: {last[-1] if last else status}", advice)
    return Check("engine", "ok", f"loads in {time.monotonic() - began:.1f} s")


async def _said(command: Sequence[str]) -> tuple[int | None, bytes, bytes]:
    """Exit status, stdout and stderr of a program that is asked nothing. OSError; TimeoutError: it was ended."""
    nothing, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=nothing, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(ENGINE_S):
            out, words = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode, out, words


def _driver() -> Check:
    if pynvml is None:
        return Check("graphics", "skipped", "NVIDIA cards cannot be asked for: nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if Path("/proc/driver/nvidia").exists() or Path("/sys/module/nvidia").exists():
            advice = "Restart the computer after a driver update, or install the driver again."
            return Check("graphics", "problem", f"the NVIDIA driver does not answer: {error}", advice)
        return Check("graphics", "skipped", "no NVIDIA driver: the processor computes")
    try:
        names = [str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i))) for i in range(_cards())]
        found = f"driver {pynvml.nvmlSystemGetDriverVersion()}: {', '.join(names) or NO_CARD}"
        return Check("graphics", "ok", found)
    except pynvml.NVMLError as error:
        return Check("graphics", "problem", f"a card does not answer: {error}", "Restart the computer.")
    finally:
        pynvml.nvmlShutdown()


async def _graphics(driver: Check) -> Check:
    """A card that its driver shows may still be of no use to torch: the driver may be too old for it."""
    if driver.state != "ok" or driver.found.endswith(NO_CARD):
        return driver
    try:
        status, said, _ = await _said(DEVICES)
    except (OSError, TimeoutError):
        return Check("graphics", "problem", f"{driver.found}: torch does not answer", "Restart the computer.")
    problem = json.loads(said)["card_problem"] if status == 0 else "torch cannot be loaded"
    if problem is None:
        return driver
    advice = "Update the driver, or install the build of torch that fits it (https://pytorch.org/get-started/locally)."
    return Check("graphics", "problem", f"{driver.found}: training cannot use it: {problem}", advice)


def _without_driver(graphics: Check, problem: str | None = None) -> Check:
    """`problem`: of a torch that is built for cards which no driver tells of."""
    problem = build_problem() if problem is None else problem
    if graphics.state != "skipped" or problem is None:
        return graphics
    advice = (
        "They compute where no rules hold ('legion-client --no-gui' without a chosen rule); else the processor does."
    )
    return Check("graphics", "problem", problem.rstrip("."), advice)


async def _devices(found: SettingsFile, status: Status | None) -> list[Check]:
    """Each card and the processor, as the agent has them; or as they are found where none runs."""
    if status is not None and status.devices:
        return [_device(device) for device in status.devices]
    cards = (await cards_once()).cards
    reasons = lasting(found.settings, Readings(gpus=cards), local_time(time.time()))
    return [_device(device) for device in devices(processor(), cards, reasons, found.settings)]


def _device(device: DeviceNow) -> Check:
    """What the volunteer has switched off is no problem, nor is what waits for a rule."""
    name = "processor" if device.kind == "cpu" else f"card {device.index}"
    if device.state == "unusable":
        return Check(name, "problem", told(device), "Restart the computer, or exclude the card (graphics.excluded).")
    if device.state == "off":
        setting = device.reasons[0].setting
        return Check(name, "skipped", told(device), f"{setting} decides that." if setting else "")
    return Check(name, "ok", told(device))


def _cards() -> int:
    return int(pynvml.nvmlDeviceGetCount())
