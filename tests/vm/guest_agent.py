"""The program in the guest: does what the tests say on the virtio port, one line of JSON for each
request and each answer.

    {"sh": command, "timeout": s}   -> {"status": n, "out": text}
    {"apply": base64 | null}        -> {}              the protection (MessagePack), with the one engine that it keeps
    {"restart": true}               -> {}              close the engine and start another, as a restart of the daemon does
    {"counters": true}              -> {"counters": {}}
    {"why_not": true}               -> {"why_not": text | null}

Anything that goes wrong is {"error": text}.
"""

import asyncio
import base64
import json
import subprocess
import traceback
from pathlib import Path
from typing import Any

from weft.linux.xfrm import KernelEngine, why_not
from weft.model.codec import decode
from weft.model.encryption import Protection

DEVICES = Path("/dev")
LEDGER = Path("/run/esp.ledger")


class Agent:
    def __init__(self) -> None:
        self._engine: KernelEngine | None = None

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "sh" in request:
            return self._run(request["sh"], request.get("timeout", 30))
        if "why_not" in request:
            return {"why_not": why_not()}
        if "restart" in request:
            if self._engine is not None:
                await self._engine.close()
            self._engine = None
            return {}
        if self._engine is None:
            self._engine = KernelEngine(LEDGER)
        if "apply" in request:
            text = request["apply"]
            await self._engine.apply(
                None if text is None else decode(base64.b64decode(text), Protection)
            )
            return {}
        return {"counters": await self._engine.counters()}

    @staticmethod
    def _run(command: str, timeout: float) -> dict[str, Any]:
        try:
            done = subprocess.run(
                command,
                shell=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as expired:
            return {"status": 124, "out": (expired.output or b"").decode(errors="replace")}
        return {"status": done.returncode, "out": done.stdout.decode(errors="replace")}


async def serve() -> None:
    agent = Agent()
    # The driver makes it some time after it was loaded.
    while not (ports := list(DEVICES.glob("vport*"))):
        await asyncio.sleep(0.05)
    with ports[0].open("r+b", buffering=0) as port:
        pending = b""
        while True:
            while b"\n" not in pending:
                pending += port.read(65536) or b""
            line, _, pending = pending.partition(b"\n")
            try:
                answer = await agent.answer(json.loads(line))
            except Exception:
                answer = {"error": traceback.format_exc()}
            data = json.dumps(answer).encode() + b"\n"
            while data:
                data = data[port.write(data) :]


asyncio.run(serve())
