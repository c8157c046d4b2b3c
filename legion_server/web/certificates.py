"""Certificates of what somebody has contributed, as SVG, and the page on which anybody can check one.

Nothing is stored: the address of that page holds what the certificate says, and a code that only this server can make
(HMAC-SHA-256, RFC 2104).
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse, Response

from legion.accounts import TeamId
from legion.errors import NotFound
from legion_server.api.deps import BackendDep
from legion_server.backend import Backend
from legion_server.web.leaderboard import Nickname
from legion_server.web.render import page, render

router = APIRouter(include_in_schema=False)

PURPOSE = "legion certificates"
CODE_BYTES = 16
SEPARATOR = "\x1f"  # no name has it


class CertificateUnknown(NotFound):
    slug = "certificate-unknown"
    title = "This server has given no such certificate"
    hint = "Look at the address again: every character counts."


@dataclass(frozen=True, slots=True)
class Certificate:
    """`credit` as it was `at` (s since 1970)."""

    name: str
    credit: float
    at: int

    def text(self) -> str:
        return SEPARATOR.join((self.name, f"{self.credit:.6f}", str(self.at)))


@router.get("/volunteers/{nickname}/certificate.svg")
async def of_volunteer(request: Request, nickname: Nickname, backend: BackendDep) -> Response:
    view = await backend.boards.volunteer(nickname)
    return _drawn(request, backend, Certificate(view.nickname, view.standing.credit, int(backend.clock())))


@router.get("/teams/{team_id}/certificate.svg")
async def of_team(request: Request, team_id: TeamId, backend: BackendDep) -> Response:
    view = await backend.teams.view(team_id)
    return _drawn(request, backend, Certificate(f"team {view.name}", view.standing.credit, int(backend.clock())))


@router.get("/certificates/{code}", response_class=HTMLResponse)
async def check(request: Request, code: Annotated[str, Path(max_length=500)], backend: BackendDep) -> HTMLResponse:
    return page(request, "certificate.html", certificate=read(code, backend.authority.secret(PURPOSE)))


def _drawn(request: Request, backend: Backend, certificate: Certificate) -> Response:
    address = (
        f"{str(request.base_url).rstrip('/')}/certificates/{written(certificate, backend.authority.secret(PURPOSE))}"
    )
    text = render(request, "certificate.svg", certificate=certificate, address=address)
    return Response(text, media_type="image/svg+xml", headers={"Content-Security-Policy": "default-src 'none'"})


def written(certificate: Certificate, secret: str) -> str:
    """What the address of a certificate ends with."""
    text = certificate.text().encode()
    return base64.urlsafe_b64encode(_code(text, secret) + text).decode().rstrip("=")


def read(code: str, secret: str) -> Certificate:
    """CertificateUnknown for anything that `written` did not give with this secret."""
    try:
        data = base64.urlsafe_b64decode(code.encode("ascii") + b"=" * (-len(code) % 4))
    except ValueError:
        data = b""
    given, text = data[:CODE_BYTES], data[CODE_BYTES:]
    if not hmac.compare_digest(given, _code(text, secret)):
        raise CertificateUnknown
    name, credit, at = text.decode().split(SEPARATOR)
    return Certificate(name, float(credit), int(at))


def _code(text: bytes, secret: str) -> bytes:
    return hmac.digest(bytes.fromhex(secret), text, hashlib.sha256)[:CODE_BYTES]
