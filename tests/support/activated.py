"""Starts a program as systemd does for a unit with a socket: the socket is descriptor 3, and
variables say for whom it is."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping

_TRAMPOLINE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update((key, value.replace("$$", str(os.getpid()))) for key, value in map(lambda a: a.split("=", 1), sys.argv[2].split()))
os.execv(sys.argv[3], sys.argv[3:])
"""
FOR_THE_PROGRAM = {"LISTEN_PID": "$$", "LISTEN_FDS": "1"}


def run_with(
    listening: socket.socket, command: list[str], variables: Mapping[str, str] = FOR_THE_PROGRAM
) -> subprocess.CompletedProcess[str]:
    """`variables`: `$$` in a value becomes the program's process id."""
    words = " ".join(f"{key}={value}" for key, value in variables.items())
    trampoline = [sys.executable, "-c", _TRAMPOLINE, str(listening.fileno()), words]
    environment = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    return subprocess.run(
        [*trampoline, *command],
        pass_fds=[listening.fileno()],
        capture_output=True,
        text=True,
        env=environment,
    )
