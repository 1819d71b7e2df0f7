"""The exit code of a container whose program could not be started, as Docker chooses it: by the text
of the OCI runtime (moby daemon/errors.go, `setExitCodeFromError`). Shells have the same codes."""

NOT_RUNNABLE = 126
"""The program may not be run."""
NOT_FOUND = 127
"""There is no such program, or a mount does not fit."""
UNKNOWN = 128
"""Any other cause."""

_CODES = (
    ("permission denied", NOT_RUNNABLE),
    ("is a directory", NOT_RUNNABLE),
    ("not a directory", NOT_FOUND),
    ("executable file not found", NOT_FOUND),
    ("no such file or directory", NOT_FOUND),
)
"""The first text that the cause contains decides."""


def start_exit_code(cause: str) -> int:
    text = cause.lower()
    return next((code for part, code in _CODES if part in text), UNKNOWN)
