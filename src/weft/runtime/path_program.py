"""The program that looks at paths of the host, which may be on a file server that does not answer:
a process of its own, which the daemon can kill.

Run by `volume_mounts.py`, by this file's path and without the rest of Weft. It looks at all paths
of one container, because its start takes longer than all its looks, and imports nothing that the
interpreter does not start with. The standard input is a sequence of questions, the standard output
one of answers, each with a NUL behind it:

    question   `.` or `+`, and a path; `+`: a missing one is made, as a directory
    answer     `=` and the path without symbolic links, or `!` and why there is none

After a path that is not there, nothing more is looked at or made.
"""

import os
import sys


def look(question: bytes) -> bytes:
    """Raises `OSError`."""
    path = question[1:]
    if question[:1] == b"+" and not os.path.exists(path):
        os.makedirs(path, 0o755, exist_ok=True)
    os.stat(path)
    return os.path.realpath(path)


def main() -> None:
    for question in sys.stdin.buffer.read().split(b"\0")[:-1]:
        try:
            answer = b"=" + look(question)
        except OSError as error:
            cause = os.strerror(error.errno) if error.errno else str(error)
            answer = b"!" + cause.lower().encode()
        os.write(1, answer + b"\0")
        if answer[:1] == b"!":
            return


if __name__ == "__main__":
    main()
