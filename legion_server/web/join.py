"""The join page: three steps, and the invite that the operator has made public, if there is one."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from legion_server.api.deps import BackendDep
from legion_server.web.account import SignedIn
from legion_server.web.render import page

router = APIRouter(include_in_schema=False)


@router.get("/join", response_class=HTMLResponse)
async def join(request: Request, backend: BackendDep, _: SignedIn) -> HTMLResponse:
    invite = await backend.invites.public()
    return page(request, "join.html", invite=invite, qr_code=qr_code(invite) if invite else None)


def qr_code(text: str) -> Markup:
    """An SVG without inline style, dark on light in dark mode too: scanners want it so."""
    import segno  # noqa: PLC0415  takes 0.1 s: not for the start

    code = segno.make(text, error="m", micro=False)
    svg = code.svg_inline(scale=4, border=4, dark="#000", light="#fff", omitsize=True, svgclass="qr", lineclass=None)
    return Markup(svg)
