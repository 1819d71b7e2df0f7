"""python -m tests.hostile [--count N] [--seed N] [--socket PATH]

Hostile requests to the daemon behind a socket (of a lab: they change what they reach), or without
one to a node in memory. Prints what went wrong. A seed makes the same requests each time.
"""

import argparse
import asyncio
import faulthandler
import sys
import tempfile
from itertools import chain
from pathlib import Path

from tests.hostile.requests import KNOWN
from tests.hostile.spoiling import drafts
from tests.hostile.targets import daemon, in_memory


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile", description="hostile requests to the API"
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--socket", type=Path)
    arguments = parser.parse_args()
    faulthandler.enable()
    sent = chain(KNOWN, drafts(arguments.seed, arguments.count))
    with tempfile.TemporaryDirectory() as directory:
        if arguments.socket is not None:
            wrong = asyncio.run(daemon(arguments.socket, sent))
        else:
            wrong = asyncio.run(in_memory(Path(directory) / "docker.sock", sent))
    print(*wrong, sep="\n\n")
    print(f"{arguments.count + len(KNOWN)} requests, {len(wrong)} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
