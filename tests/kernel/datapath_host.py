"""One host of `datapath_bed.py`: runs in that host's network namespace, plans, compares and applies
what it is sent.

A line of input is base64 of MessagePack (assignment, facts, residents); a line of output is JSON:
the operations applied, those still wanted after it, and the error if there was one.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

from weft.errors import WeftError
from weft.linux.kernel import RealKernel
from weft.model.assignment import Assignment
from weft.model.codec import decode
from weft.model.sandbox import NodeFacts
from weft.model.workload import Resident
from weft.network.diff import diff
from weft.network.plan import plan


async def serve(directory: Path) -> None:
    kernel = RealKernel(directory)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        desired = plan(
            *decode(base64.b64decode(line), tuple[Assignment, NodeFacts, list[Resident]])
        )
        operations = diff(await kernel.read(desired), desired)
        error = ""
        try:
            await kernel.apply(operations)
        except WeftError as failure:
            error = "\n".join([str(failure), *getattr(failure, "__notes__", ())])
        left = diff(await kernel.read(desired), desired)
        print(
            json.dumps(
                {
                    "done": [str(o) for o in operations],
                    "left": [str(o) for o in left],
                    "error": error,
                }
            ),
            flush=True,
        )
    await kernel.close()


asyncio.run(serve(Path(sys.argv[1])))
