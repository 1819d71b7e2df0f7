"""Sends hostile requests one after the other, and says what is wrong with the answers.

After each: it was answered; the status is below 500, or 501 or 503, or the error is one of those
that are 500 in Docker Swarm; an error is JSON with a message; the API still answers; a refused
request has changed nothing that users ask for; the log has no error and no long line.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.hostile.requests import Draft, Names, Request

ANSWER = 30.0
"""Seconds for an answer. Not how long one should take: beyond it nobody answers any more."""
STREAM = 0.02
"""Seconds that a stream without an end is read."""
PING = 10
"""Requests between two that nobody could refuse; an answer to the next one says as much."""
LONGEST_LOG = 8000
"""Characters of a line of the log, without a traceback."""
BY_DESIGN = (
    "update out of sequence", "no subnet of size", "no address is left", "port is left",
    "is not connected to network", "it came before Weft kept what this needs",
)  # fmt: skip
"""500 in Docker Swarm as well; the last: the images of a node in memory have no content."""


class Target(Protocol):
    """What requests are sent to."""

    path: Path

    async def prepare(self, draft: Draft) -> Names:
        """Brings back what requests are about; gives the names that this one needs."""
        ...

    async def specs(self) -> Mapping[str, object]:
        """What users have asked for."""
        ...


@dataclass(frozen=True)
class Answer:
    status: int
    """0: none came."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


async def send(path: Path, request: Request) -> Answer:
    """Says that it sends no more behind the request. Raises `TimeoutError`."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        await loop.sock_connect(client, str(path))
        sending = asyncio.create_task(_send(client, request.encode()))
        try:
            async with asyncio.timeout(ANSWER):
                return await _Reader(client).answer(request.method)
        finally:
            sending.cancel()
            await asyncio.wait((sending,))


async def _send(client: socket.socket, data: bytes) -> None:
    """A server that has answered already may close its end: then what it said is still there."""
    with suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(client, data)
        client.shutdown(socket.SHUT_WR)


class _Reader:
    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._data = bytearray()

    async def answer(self, method: str) -> Answer:
        while True:
            while b"\r\n\r\n" not in self._data:
                if not await self._more():
                    return Answer(0)
            head, _, self._data = self._data.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            status = int(first.split()[1])
            if status != 100:
                break
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        return Answer(status, headers, await self._body(method, status, headers))

    async def _body(self, method: str, status: int, headers: Mapping[str, str]) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        if "content-length" in headers:
            while len(self._data) < int(headers["content-length"]) and await self._more():
                pass
            return bytes(self._data)
        with suppress(TimeoutError):
            async with asyncio.timeout(STREAM):
                while await self._more():
                    pass
        return bytes(self._data)

    async def _more(self) -> bool:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._client, 2**16)
        except ConnectionError:
            return False
        self._data += data
        return bool(data)


def wrong_with(request: Request, answer: Answer) -> str:
    """Empty if nothing is."""
    if answer.status == 0:
        return "" if not request.framed else "no answer"
    if answer.status < 400:
        return ""
    if request.method == "HEAD":
        return (
            "" if answer.status < 500 or answer.status in (501, 503) else f"status {answer.status}"
        )
    try:
        message = json.loads(answer.body)["message"]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status} without a message: {answer.body[:200]!r}"
    if not isinstance(message, str) or not message or len(message) > LONGEST_LOG:
        return f"status {answer.status}: message {message!r:.200}"
    if (
        answer.status >= 500
        and answer.status not in (501, 503)
        and not any(known in message for known in BY_DESIGN)
    ):
        return f"status {answer.status}: {message}"
    return ""


class LogWatch(logging.Handler):
    """What the log has that it should not."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.ERROR or record.exc_info:
            shown = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
            self.found.append(f"logged: {text[:300]}\n{shown[-2500:]}")
        elif len(text) > LONGEST_LOG:
            self.found.append(f"logged {len(text)} characters: {text[:200]}")


async def play(target: Target, drafts: Iterable[Draft], log: LogWatch) -> list[str]:
    """What went wrong, with the request that did it."""
    wrong = []
    for number, draft in enumerate(drafts):
        names = await target.prepare(draft)
        request = draft.request(names)
        before = await target.specs()
        try:
            answer = await send(target.path, request)
            found = [wrong_with(request, answer)]
            if answer.status >= 400 and await target.specs() != before:
                found.append(f"refused with {answer.status}, but something changed")
            if not number % PING:
                ping = await send(target.path, Request("GET", "/_ping"))
                found.append("" if ping.status == 200 else f"GET /_ping: {ping}")
        except TimeoutError:
            found = [f"no answer within {ANSWER} s"]
        found += log.found
        log.found.clear()
        wrong += [f"request {number}: {request}\n    {text}" for text in found if text]
    return wrong
