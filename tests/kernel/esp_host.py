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
from typing import Any

from msgspec import convert

from weft.errors import WeftError
from weft.linux.esp.client import UserspaceEngine
from weft.linux.esp.control import Implementation
from weft.model.codec import decode
from weft.model.encryption import Protection


async def answer(engine: UserspaceEngine, verb: str, *arguments: Any) -> object:
    if verb == "apply":
        await engine.apply(
            None if arguments[0] is None else decode(base64.b64decode(arguments[0]), Protection)
        )
        return None
    answered: object = await getattr(engine, verb)()
    return answered


async def serve(run: str, state: str, implementation: Implementation) -> None:
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


_, run, state, implementation = sys.argv
asyncio.run(serve(run, state, convert(implementation, Implementation)))
