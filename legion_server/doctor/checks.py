"""What the server's `doctor` looks at, in the order in which it builds on each other. Changes nothing."""

import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from legion.check import Check
from legion.errors import LegionError
from legion_server.backend import invite_host, own_names
from legion_server.doctor.database import database_and_clock
from legion_server.doctor.running import files, find, ports
from legion_server.node import LEAST_FREE_BYTES
from legion_server.service.blobs import Blobs
from legion_server.settings import Settings, load_settings

LITTLE_BYTES = 5 * 10**9  # room for some rounds of a small model
DAY_S = 86_400.0
ENDS_SOON_DAYS = 30
WIDEST = {4: 8, 6: 32}  # of a network of proxies, by version
PRIVATE = ("admin-token", "ca-key.pem", "server-key.pem", "relays.json")


async def examine(**given: Any) -> list[Check]:
    """All checks; `given` as for `load_settings`."""
    try:
        settings = load_settings(**given)
        host = invite_host(settings)
    except LegionError as error:
        return [Check("settings", "problem", str(error), error.hint)]
    running = find(settings)
    port = running.port if running else settings.port
    checks = [Check("settings", "ok", f"workers are sent to {host}:{port}"), _proxies(settings)]
    checks += [_folder(settings.data_dir), _disk(settings.data_dir)]
    checks += await database_and_clock(settings)
    checks += [await _blobs(settings), *_certificates(settings)]
    checks += await ports(settings, running)
    return [*checks, await files(settings, running)]


def _proxies(settings: Settings) -> Check:
    wide = [network for network in settings.trusted_proxies if network.prefixlen < WIDEST[network.version]]
    if wide:
        advice = "Name the proxies' own addresses in LEGION_TRUSTED_PROXIES: whoever is in it may say who asks."
        return Check("proxies", "problem", f"{wide[0]} is believed whatever it says of callers' addresses", advice)
    if not settings.trusted_proxies:
        found = "none is named: what comes through one on this machine would count as one caller"
        return Check("proxies", "skipped", found)
    named = ", ".join(str(network) for network in settings.trusted_proxies)
    return Check("proxies", "ok", f"X-Forwarded-For is believed of {named}")


def _folder(folder: Path) -> Check:
    there = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"legion")
        open_to_others = [name for name in PRIVATE if sys.platform != "win32" and _is_open(folder / name)]
    except OSError as error:
        advice = "Make it writable for the user that the server runs as, or choose another with --data-dir."
        return Check("data folder", "problem", f"{folder} cannot be used: {error.strerror}", advice)
    if open_to_others:
        found = f"others on this machine can read {', '.join(open_to_others)} in {folder}"
        return Check("data folder", "problem", found, "chmod 600 them; whoever has read them has the run.")
    return Check("data folder", "ok", str(folder) if folder.exists() else f"{folder} can be made")


def _is_open(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(_existing(folder)).free
    text = f"{free / 1e9:.1f} GB free"
    if free < LEAST_FREE_BYTES:
        return Check("disk", "problem", text, "Free disk space: the server says that it is not ready below 100 MiB.")
    if free < LITTLE_BYTES:
        return Check("disk", "problem", text, "Free disk space: slices and updates of a few rounds may fill it.")
    return Check("disk", "ok", text)


async def _blobs(settings: Settings) -> Check:
    if settings.blobs_url is None:
        return Check("updates", "skipped", "they are kept in the data folder")
    try:
        await Blobs(settings.updates_url, settings.incoming_dir).names()
    except LegionError as error:
        advice = "Check the store's address in LEGION_BLOBS_URL, its bucket, and the keys in the environment."
        return Check("updates", "problem", str(error), advice)
    return Check("updates", "ok", "the store of LEGION_BLOBS_URL answers")


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    file: str
    advice: str


def _certificates(settings: Settings) -> list[Check]:
    kinds = (
        _Kind("authority", "ca.pem", "Every worker has to join anew with another authority: plan for it."),
        _Kind("certificate", "server.pem", "Restart the server, or send it SIGHUP: it makes a new one."),
    )
    return [_certificate(settings, kind) for kind in kinds]


def _certificate(settings: Settings, kind: _Kind, now: Callable[[], float] = time.time) -> Check:
    path = settings.data_dir / kind.file
    if not path.exists():
        return Check(kind.name, "skipped", "made at the first start")
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        return Check(kind.name, "problem", f"{path} cannot be read: {error}", "Restore it from a backup.")
    days = (certificate.not_valid_after_utc.timestamp() - now()) / DAY_S
    if days < ENDS_SOON_DAYS:
        return Check(kind.name, "problem", f"ends in {max(days, 0):.0f} days", kind.advice)
    if certificate.not_valid_before_utc.timestamp() > now():
        return Check(kind.name, "problem", "begins in the future", "Put this machine's clock right.")
    missing = own_names(settings) - _names(certificate) if kind.file == "server.pem" else set()
    if missing:
        return Check(kind.name, "problem", f"is not good for {', '.join(sorted(missing))}", kind.advice)
    return Check(kind.name, "ok", f"good for {days:.0f} days")


def _names(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
