"""Stylesheet, scripts and pictures. Their addresses hold a digest of their content, so browsers keep them for good."""

import hashlib
import mimetypes
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response

from legion.errors import NotFound

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent / "static"
FOREVER = "public, max-age=31536000, immutable"
DIGEST_LENGTH = 12  # of hex digits


@cache
def _files() -> dict[str, tuple[str, bytes, str]]:
    """By name: digest, content, media type. They are part of the program: read once."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        kind = mimetypes.guess_type(path.name)[0]
        if path.is_file() and kind is not None:
            content = path.read_bytes()
            found[path.name] = hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH], content, kind
    return found


def static_url(name: str) -> str:
    digest, _, _ = _files()[name]
    return f"/static/{digest}/{name}"


@router.get("/static/{digest}/{name}")
async def static(digest: str, name: str) -> Response:
    known, content, kind = _files().get(name, ("", b"", ""))
    if not known or digest != known:
        raise NotFound(f"there is no file {name} of this version", hint="Load the page again.")
    return Response(content, media_type=kind, headers={"Cache-Control": FOREVER})
