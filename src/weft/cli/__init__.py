"""The `weft` command. One file per subcommand, each imported only when it is asked for.

Start-up time matters: scripts call `weft lab exec` hundreds of times. So that command goes straight
to `weft.lab.enter`, without the command line library. This file and `root.py` are the only ones
that import by name at run time; `root.py` has the table of the subcommands that may be imported.
"""

import importlib
import sys


def main() -> int:
    """Entry point: gives the exit status."""
    arguments = sys.argv[1:]
    if arguments[:2] == ["lab", "exec"] and arguments[2:3] not in ([], ["--help"]):
        status: int = importlib.import_module("weft.lab.enter").main(arguments[2:])
        return status
    result: int = importlib.import_module("weft.cli.root").run(arguments)
    return result
