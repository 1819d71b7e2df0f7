"""Errors as HTTP: the only table that maps kinds of `weft.errors` to a status, and the body that
clients show."""

import logging
import secrets

from aiohttp import web
from aiohttp.web_request import BaseRequest

from weft import errors
from weft.api.schema.common import encode
from weft.errors import clip

log = logging.getLogger(__name__)

MAX_MESSAGE = 4096
"""Characters of a message, which may quote the client's input."""

STATUS: tuple[tuple[type[errors.WeftError], int], ...] = (
    (errors.Unsupported, 501),
    (errors.InvalidArgument, 400),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.FailedPrecondition, 400),
    (errors.Forbidden, 403),
    (errors.Unauthorized, 401),
    (errors.Unavailable, 503),
    (errors.OutOfSequence, 500),
    (errors.Exhausted, 500),
    (errors.OperationFailed, 500),
)
"""The first match counts: a leaf stands before its parent."""


def status_of(error: errors.WeftError) -> int:
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def message_of(error: errors.WeftError) -> str:
    """Docker's text for `OutOfSequence` has the prefix of its RPC; clients match the end of the
    text."""
    text = clip(str(error), MAX_MESSAGE)
    return (
        f"rpc error: code = Unknown desc = {text}"
        if isinstance(error, errors.OutOfSequence)
        else text
    )


def error_response(status: int, message: str) -> web.Response:
    return web.Response(
        status=status, body=encode({"message": message}), content_type="application/json"
    )


def internal_error(method: str, path: str, error: BaseException | None) -> web.Response:
    return error_response(500, _unforeseen(method, path, error))


def text_of(request: BaseRequest, error: Exception) -> str:
    """The text for a client whose answer has begun and can no longer get a status."""
    if isinstance(error, errors.WeftError):
        log.info(
            "api.broken_off method=%s path=%s cause=%s",
            request.method,
            clip(request.path),
            clip(str(error)),
        )
        return message_of(error)
    return _unforeseen(request.method, request.path, error)


def _unforeseen(method: str, path: str, error: BaseException | None) -> str:
    """The traceback goes to the log; the client gets the id under which the log has it."""
    id = secrets.token_hex(4)
    log.error("api.failed id=%s method=%s path=%s", id, method, clip(path), exc_info=error)
    return f"internal error {id} in {method} {clip(path)}: see the daemon's log"
