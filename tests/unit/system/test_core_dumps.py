"""The daemon leaves no core, and the programs that it starts may."""

import subprocess
import sys

SCRIPT = """
import ctypes, subprocess, sys
from weft.system import core_dumps
asked = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
core_dumps.forbid()
exec(asked)
subprocess.run([sys.executable, "-c", asked], check=True)
"""


def test_no_core_of_the_daemon_and_those_of_its_children_as_before() -> None:
    done = subprocess.run(
        [sys.executable, "-u", "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "1"]
