"""The command line's calls to the running server, as its admin, over HTTPS with the data folder's authority."""

import json
from typing import Any

import httpx
from pydantic import ValidationError

from legion.config import ALIASES
from legion.errors import LegionError, ServerUnreachable, Unusable, by_slug
from legion.identity import client_context
from legion.messages import Problem
from legion.unreached import why
from legion_server.auth.tokens import admin_token_file
from legion_server.serving import LISTENING_FILE, Listening
from legion_server.settings import Settings

TIMEOUT_S = 600.0  # a change of configuration is answered once its data is prepared
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def call(settings: Settings, method: str, path: str, **arguments: Any) -> bytes:
    """The body of a successful answer. ServerUnreachable, or the error that the server named."""
    folder = settings.data_dir
    try:
        listening = Listening.model_validate_json((folder / LISTENING_FILE).read_bytes())
        token = settings.admin_token.get_secret_value() if settings.admin_token else None
        token = token or admin_token_file(folder).read_text(encoding="utf-8").strip()
        context = client_context((folder / "ca.pem").read_bytes())
    except (OSError, ValidationError) as error:
        raise ServerUnreachable(
            f"no server runs with the data folder {folder}", hint="Start it: legion-server serve --data-dir ..."
        ) from error
    host = EVERYWHERE.get(listening.host, listening.host)
    base = f"https://[{host}]:{listening.port}" if ":" in host else f"https://{host}:{listening.port}"
    headers = {"Authorization": f"Bearer {token}"}
    try:
        with httpx.Client(verify=context, timeout=TIMEOUT_S, trust_env=False, headers=headers) as http:
            response = http.request(method, base + path, **arguments)
    except httpx.TransportError as error:
        raise ServerUnreachable(f"the server at {base} cannot be reached: {why(error)}") from error
    if response.is_error:
        raise _named(response)
    return response.content


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """NAME=VALUE with dots for sections; values are JSON where they are, else text."""
    body: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or not all(name.split(".")):
            raise Unusable(f"'{change}' is not NAME=VALUE", hint="For example: legion-server config set steps=500")
        *parents, last = ALIASES.get(name, tuple(name.split(".")))
        section = body
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise Unusable(f"'{change}': {parent} was given a value before")
        try:
            section[last] = json.loads(text)
        except json.JSONDecodeError:
            section[last] = text
    return body


def _named(response: httpx.Response) -> LegionError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return LegionError(f"the server answered with status {response.status_code} and no explanation")
    return by_slug(problem.slug, problem.detail, hint=problem.hint)
