"""One host of test_esp_engine.py: runs in that host's network namespace and drives a
`UserspaceEngine` there.

A line of input is JSON: ["apply", base64 of a MessagePack Protection or null], ["counters"] or
["implementation"]; a line of output is JSON: [result, error].
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

from weft.errors import WeftError
from weft.linux.esp.client import UserspaceEngine
from weft.model.codec import decode
from weft.model.encryption import Protection


async def answer(engine, verb, *arguments):
    if verb == "apply":
        return await engine.apply(
            None if arguments[0] is None else decode(base64.b64decode(arguments[0]), Protection)
        )
    return await getattr(engine, verb)()


async def serve(run, state, implementation):
    engine = UserspaceEngine(Path(run), Path(state), implementation=implementation)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        result, error = None, ""
        try:
            result = await answer(engine, *json.loads(line))
        except WeftError as failure:
            error = str(failure)
        print(json.dumps([result, error]), flush=True)
    await engine.close()


asyncio.run(serve(*sys.argv[1:]))
