"""Commands as somebody at a host of the lab would type them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SECONDS = 90


def typed(
    host: str, argv: Sequence[str], columns: int = 120, seconds: float = SECONDS
) -> "subprocess.CompletedProcess[str]":
    """Runs the command there; its output and errors come together. 124 if it takes too long."""
    words = [sys.executable, "-m", "weft", "lab", "exec", host, "--", *argv]
    # for commands that call weft
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "PATH": path, "COLUMNS": str(columns)}
    try:
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=seconds, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "")
