"""Errors leave the server here and nowhere else: as application/problem+json (RFC 9457)."""

import logging
import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from legion.errors import LegionError, ProtocolMismatch, Unusable
from legion.messages import FieldProblem, Problem
from legion_server.service.coordinator import check_protocol

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
SCHEMA = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
RETRY_AFTER_S = 2  # for what is being prepared

Responses = dict[int | str, dict[str, Any]]
ProblemPage = Callable[[Request, Problem, Mapping[str, str]], Response]


def answers(*statuses: int) -> Responses:
    """For a route's `responses`: it may answer with these problems, and with those that every route has."""
    return {
        status: {"description": HTTPStatus(status).phrase, **SCHEMA} for status in {*statuses, 400, 401, 413, 422, 429}
    }


def install(app: FastAPI, page: ProblemPage) -> None:
    """Handlers for every kind of error. `page` is for browsers: programs do not ask for text/html."""
    app.state.problem_page = page
    app.add_exception_handler(LegionError, _on_legion_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_hang_up)
    app.add_exception_handler(Exception, _on_surprise)


def problem_of(error: LegionError) -> Problem:
    return Problem(
        type=f"urn:legion:problem:{error.slug}",
        title=error.title,
        status=error.status,
        detail=str(error),
        slug=error.slug,
        hint=error.hint,
        retryable=error.retryable,
        errors=tuple(
            FieldProblem(field=p.field, problem=p.problem, allowed=p.allowed) for p in error.details.get("errors", ())
        ),
    )


def response_to(error: LegionError) -> Response:
    """The whole answer for a program."""
    return _document(problem_of(error), _headers(error))


def answer_to(request: Request, error: LegionError) -> Response:
    """The whole answer for whoever asked."""
    return _answer(request, problem_of(error), _headers(error))


def place_of(scope: Scope) -> str:
    """For the log: the route and not the path, which may hold a secret, as a link that signs in does."""
    route = getattr(scope.get("route"), "path", None)
    return str(route or "/" + str(scope["path"]).split("/")[1])


def _headers(error: LegionError) -> dict[str, str]:
    """Those that belong to the error's status."""
    headers = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers["Retry-After"] = str(math.ceil(error.details.get("retry_after_s", RETRY_AFTER_S)))
    return headers


def _answer(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        page: ProblemPage = request.app.state.problem_page
        return page(request, problem, headers or {})
    return _document(problem, headers or {})


def _document(problem: Problem, headers: Mapping[str, str]) -> Response:
    return Response(problem.model_dump_json(), problem.status, dict(headers), MEDIA_TYPE)


async def _on_legion_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LegionError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not error.retryable:
        logger.error("request failed route=%s reason=%s", place_of(request.scope), error)
    return answer_to(request, error)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    spoken = error.body.get("protocol") if isinstance(error.body, dict) else None
    if type(spoken) is int:
        # Another version's messages have other fields: that is what is wrong with them.
        try:
            check_protocol(spoken)
        except ProtocolMismatch as mismatch:
            return answer_to(request, mismatch)
    found = tuple(
        FieldProblem(
            field=".".join(str(part) for part in entry["loc"]),
            problem=str(entry["msg"]),
            allowed=str((entry.get("ctx") or {}).get("expected", "")),
        )
        for entry in error.errors()
    )
    listed = "; ".join(f"{problem.field}: {problem.problem}" for problem in found)
    invalid = Unusable(f"the request is not valid: {listed}", hint="GET /openapi.json describes every request.")
    return _answer(request, problem_of(invalid).model_copy(update={"errors": found}))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    problem = Problem(
        type="about:blank",
        title=phrase,
        status=error.status_code,
        detail=str(error.detail),
        slug=phrase.lower().replace(" ", "-"),
        hint="GET /openapi.json lists every route.",
    )
    return _answer(request, problem, error.headers)


async def _on_hang_up(request: Request, _: Exception) -> Response:
    logger.info("caller hung up route=%s", place_of(request.scope))
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it


async def _on_surprise(request: Request, error: Exception) -> Response:
    logger.error("request failed route=%s", place_of(request.scope), exc_info=error)
    return _answer(request, problem_of(LegionError("the server met an error that it did not expect")))
