"""The kinds of errors. A kind says what the caller may do about the error; `api/errors.py` maps
kinds to HTTP status.

    WeftError
    ├─ InvalidArgument     the request is wrong and will be wrong again                       400
    │   └─ Unsupported     understood, but not something Weft does: refused, never ignored    501
    ├─ NotFound            no object of that name or id                                       404
    ├─ Conflict            the name, port, address or subnet is taken, or the object in use   409
    ├─ OutOfSequence       somebody else changed the object first: read it again              500 (as Docker Swarm)
    ├─ FailedPrecondition  right request, wrong moment                                        400
    ├─ Forbidden           this node or certificate may not do that                           403
    ├─ Unauthorized        a registry refuses these credentials, a locked node this key       401
    ├─ Unavailable         not part of a swarm, no manager in reach, no quorum                503
    ├─ Exhausted           no address, VNI or port left                                       500
    └─ OperationFailed     the kernel, the runtime or the disk refused                        500
        └─ Damaged         a file of this host is missing or damaged: an operator must act    500

Messages read `cannot <verb> <object>: <cause>` with the field and the value, except where Docker
Swarm's text is fixed.
"""

SHOWN = 200
"""Characters of a value that a message shows."""


def clip(text: str, most: int = SHOWN) -> str:
    """The part of a text from outside that a message or log may contain: its beginning, and its
    length if it was cut."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


class WeftError(Exception):
    """Base of all errors that Weft raises on purpose. `str(error)` is the message for the user."""


class InvalidArgument(WeftError):
    pass


class Unsupported(InvalidArgument):
    pass


class NotFound(WeftError):
    pass


class Conflict(WeftError):
    pass


class OutOfSequence(WeftError):
    """A compare-and-swap lost: the object's version is no longer the one that was read."""


class FailedPrecondition(WeftError):
    pass


class Forbidden(WeftError):
    pass


class Unauthorized(WeftError):
    pass


class Unavailable(WeftError):
    pass


class Exhausted(WeftError):
    pass


class OperationFailed(WeftError):
    """An operation on the outside world failed. Adapters translate foreign exceptions into this."""


class Damaged(OperationFailed):
    """A file of this host is missing, unreadable, or not this node's. The daemon left it as it is;
    trying again does not help. The message names the file and says what to do."""


def cause_of(error: BaseException) -> str:
    """The reason of a failure, for the `<cause>` of a message; never empty. For an operating system
    error this is the system's text without number and path, if there is one:
    `socket.if_nametoindex` and others raise an `OSError` with neither number nor text."""
    words = error.strerror if isinstance(error, OSError) else None
    return str(words or error) or type(error).__name__


def described(error: Exception) -> str:
    """An error's text for a status or a log line. An error raised on purpose has its own words; any
    other is reported as an internal error of this program."""
    return str(error) if isinstance(error, WeftError) else f"internal error: {error!r}"
