"""Somebody outside the cluster who asks through the mesh, steadily, in turn of all of them: `python
load.py ADDRESS:PORT…`.

Each request is a connection of its own, made when its time has come whether or not those before it
were answered. Until its standard input ends; then one line of JSON per request on the standard
output: when it was made (seconds, CLOCK_MONOTONIC), how long after its time that was, whom it
asked, how long it took, who answered (the container's hostname) or else why nobody did.
"""

import asyncio
import json
import sys
import time

RATE = 200
"""Requests per second."""
PATIENCE = 10.0
"""Seconds: more than a busy machine takes, and than a SYN that was lost and is sent again."""


async def ask(address: str, port: int) -> str:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(f"GET /whoami HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        answer = await reader.read()
        return str(json.loads(answer.partition(b"\r\n\r\n")[2])["hostname"])
    finally:
        writer.close()


async def one(
    due: float, target: str, records: list[tuple[float, float, str, float, str, str]]
) -> None:
    who = why = ""
    start = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            address, _, port = target.partition(":")
            who = await ask(address, int(port))
    except TimeoutError:
        why = "no answer"
    except OSError as error:
        why = error.strerror or type(error).__name__
    except (ValueError, KeyError):
        why = "half an answer"
    records.append((start, start - due, target, time.monotonic() - start, who, why))


async def main(targets: list[str]) -> None:
    end = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(end), sys.stdin
    )
    ended = asyncio.ensure_future(end.read())
    records: list[tuple[float, float, str, float, str, str]] = []
    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        number = 0
        while not ended.done():
            due = begun + number / RATE
            await asyncio.wait([ended], timeout=max(0.0, due - time.monotonic()))
            group.create_task(one(due, targets[number % len(targets)], records))
            number += 1
    for record in sorted(records):
        print(json.dumps(record))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
