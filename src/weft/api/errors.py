"""Errors to HTTP: the one table from kinds of `weft.errors` to status, and the body that clients show."""

import logging

from aiohttp import web

from weft import errors
from weft.api.schema.common import encode

log = logging.getLogger(__name__)

STATUS: tuple[tuple[type[errors.WeftError], int], ...] = (
    (errors.Unsupported, 501),
    (errors.InvalidArgument, 400),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.FailedPrecondition, 400),
    (errors.Forbidden, 403),
    (errors.Unavailable, 503),
    (errors.OutOfSequence, 500),
    (errors.Exhausted, 500),
    (errors.OperationFailed, 500),
)
"""The first that fits counts: a leaf stands before its parent."""


def status_of(error: errors.WeftError) -> int:
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def message_of(error: errors.WeftError) -> str:
    """Clients look for the end of this text, and the original's has the prefix of its remote call."""
    if isinstance(error, errors.OutOfSequence):
        return f"rpc error: code = Unknown desc = {error}"
    return str(error)


def error_response(status: int, message: str) -> web.Response:
    return web.Response(status=status, body=encode({"message": message}), content_type="application/json")
