"""What can go wrong, by kind. A leaf of the tree says what the caller may do about it;
`api/errors.py` maps kinds to status.

    WeftError
    ├─ InvalidArgument     the request is wrong and will be wrong again                       400
    │   └─ Unsupported     understood, but not something Weft does: refused, never ignored    501
    ├─ NotFound            no object of that name or id                                       404
    ├─ Conflict            the name, port, address or subnet is taken, or the object in use   409
    ├─ OutOfSequence       somebody else changed the object first: read it again              500 (as Docker Swarm)
    ├─ FailedPrecondition  right request, wrong moment                                        400
    ├─ Forbidden           this node or certificate may not do that                           403
    ├─ Unavailable         not part of a swarm, no manager in reach, no majority              503
    ├─ Exhausted           no address, VNI or port left                                       500
    └─ OperationFailed     the kernel, the runtime or the disk refused                        500
        └─ Damaged         a file of this host is not what it was left as: somebody must look 500

Messages read `cannot <verb> <object>: <cause>` with the field and the value, except where Docker
Swarm's text is fixed.
"""

SHOWN = 200
"""Characters of a value that a message shows."""


def clip(text: str, most: int = SHOWN) -> str:
    """As much of a text that others wrote as a message or a log may hold: the beginning, and how
    long it is."""
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


class Unavailable(WeftError):
    pass


class Exhausted(WeftError):
    pass


class OperationFailed(WeftError):
    """An operation on the outside world failed. Foreign exceptions are translated into this at the
    adapter."""


class Damaged(OperationFailed):
    """What this host keeps on its disk is missing, cannot be read, or is somebody else's. It was
    left as it is, and to try again is of no use. The message names the file and says what to do."""


def cause_of(error: BaseException) -> str:
    """Why something failed, for the `<cause>` of a message; never empty. For an operating system
    error that is the system's own text, without number and path, if there is any:
    `socket.if_nametoindex` and others raise an `OSError` that has neither number nor text."""
    words = error.strerror if isinstance(error, OSError) else None
    return str(words or error) or type(error).__name__


def described(error: Exception) -> str:
    """An error as a status or a log line tells it: what was raised on purpose in its own words, all
    else as the mistake in this program that it is."""
    return str(error) if isinstance(error, WeftError) else f"internal error: {error!r}"
