"""Builds the optional C helper beside its source: `python -m weft.linux.esp.build`. Without the
helper the engine works in Python.

Needs a C compiler and the runtime library of OpenSSL 3, but not its headers.
packaging/hatch_build.py runs this as a file when a wheel is made; so this file imports nothing of
ours.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("esp.c")
LIBRARY = Path(__file__).with_name("esp.so")
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wextra",
    "-fstack-protector-strong",
    "-Wl,-z,relro,-z,now",
)


def build(source: Path = SOURCE, library: Path = LIBRARY, extra: tuple[str, ...] = ()) -> str:
    """Builds the library unless it is newer than its source. Gives the reason for a failure, or the
    empty string."""
    if library.exists() and library.stat().st_mtime >= source.stat().st_mtime:
        return ""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        return "there is no C compiler (install the package gcc and libc6-dev)"
    new = library.with_name(f"{library.name}.{os.getpid()}")
    command = [compiler, *FLAGS, *extra, "-o", str(new), str(source), "-l:libcrypto.so.3"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        new.unlink(missing_ok=True)
        return f"{' '.join(command)}: {done.stderr.strip()}"
    new.rename(library)
    return ""


def main() -> int:
    reason = build()
    print(f"esp helper: not built: {reason}" if reason else f"esp helper: {LIBRARY}")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
