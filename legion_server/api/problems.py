"""Errors leave the server here and nowhere else: as application/problem+json (RFC 9457)."""

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from legion.errors import LegionError, ProtocolMismatch, Unusable
from legion.messages import FieldProblem, Problem
from legion_server.service.coordinator import check_protocol

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
SCHEMA = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
RETRY_AFTER_S = 2  # for what is being prepared

Responses = dict[int | str, dict[str, Any]]


def answers(*statuses: int) -> Responses:
    """For a route's `responses`: it may answer with these problems, and with those that every route has."""
    return {status: {"description": HTTPStatus(status).phrase, **SCHEMA} for status in {*statuses, 400, 401, 422, 429}}


def install(app: FastAPI) -> None:
    """Handlers for every kind of error."""
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
    """The whole answer, with the headers that belong to its status."""
    headers = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers["Retry-After"] = str(math.ceil(error.details.get("retry_after_s", RETRY_AFTER_S)))
    return _answer(problem_of(error), headers)


def _answer(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(problem.model_dump_json(), problem.status, dict(headers or {}), MEDIA_TYPE)


async def _on_legion_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LegionError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not error.retryable:
        logger.error("request failed path=%s reason=%s", request.url.path, error)
    return response_to(error)


async def _on_invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    spoken = error.body.get("protocol") if isinstance(error.body, dict) else None
    if type(spoken) is int:
        # Another version's messages have other fields: that is what is wrong with them.
        try:
            check_protocol(spoken)
        except ProtocolMismatch as mismatch:
            return response_to(mismatch)
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
    return _answer(problem_of(invalid).model_copy(update={"errors": found}))


async def _on_http_error(_: Request, error: Exception) -> Response:
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
    return _answer(problem, error.headers)


async def _on_hang_up(request: Request, _: Exception) -> Response:
    logger.info("caller hung up path=%s", request.url.path)
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it


async def _on_surprise(request: Request, error: Exception) -> Response:
    logger.error("request failed path=%s", request.url.path, exc_info=error)
    return _answer(problem_of(LegionError("the server met an error that it did not expect")))
