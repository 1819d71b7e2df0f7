"""One host of `datapath_bed.py`: runs in that host's network namespace, plans, compares and applies
what it is sent.

A line of input is base64 of MessagePack (assignment, facts, residents); a line of output is JSON:
the operations applied, those still wanted after it, and the error if there was one. A line `walk`
and an entry with flows is answered by the packet's passage through the kernel as it is.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

from weft.engine.trace import passage
from weft.errors import WeftError
from weft.linux.kernel import RealKernel
from weft.model.assignment import Assignment
from weft.model.codec import decode, encode
from weft.model.sandbox import NodeFacts
from weft.model.trace import Entry, Flow
from weft.model.workload import Resident
from weft.network.diff import diff
from weft.network.plan import plan


async def serve(directory: Path) -> None:
    kernel = RealKernel(directory)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.startswith("walk "):
            entry, flows = decode(base64.b64decode(line[5:]), tuple[Entry, tuple[Flow, ...]])
            print(
                base64.b64encode(encode(await passage(kernel, entry, flows))).decode(), flush=True
            )
            continue
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
