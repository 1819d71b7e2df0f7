"""A container's output: its logs, and `attach` to its streams."""

import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from urllib.parse import quote_plus

from aiohttp import web

from weft.api import versions
from weft.api.call import Call
from weft.api.container_lookup import find_container
from weft.api.detach_keys import keys_from
from weft.api.hijack import MULTIPLEXED, RAW, Connection
from weft.api.schema.common import parse_moment, rfc3339_fixed
from weft.api.streams import ERROR, STDERR, STDOUT, carry, frame, join, streamed
from weft.errors import Conflict, InvalidArgument, Unsupported
from weft.model.container import Container, ContainerState, LogLine
from weft.model.log_details import details
from weft.model.log_options import READABLE, UNREADABLE
from weft.model.numbers import decimal


def _outputs(call: Call) -> frozenset[int]:
    return frozenset(
        stream for stream, name in ((STDOUT, "stdout"), (STDERR, "stderr")) if call.flag(name)
    )


def wanted_outputs(call: Call) -> frozenset[int]:
    """The streams that a request for logs selects. Raises `InvalidArgument` if there are none."""
    outputs = _outputs(call)
    if not outputs:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    return outputs


def content_type(call: Call, framed: bool) -> str:
    return MULTIPLEXED if framed and call.api_version >= versions.MULTIPLEXED else RAW


async def logs(call: Call) -> web.StreamResponse:
    container = find_container(call.node.containers, call.id)
    outputs = wanted_outputs(call)
    if container.config.log_driver not in READABLE:
        raise Unsupported(UNREADABLE)
    said = b""
    if call.flag("details"):
        said = details_bytes(details(container, os.uname().nodename))
    lines = call.node.containers.logs(
        container.id,
        follow=call.flag("follow"),
        since=parse_moment(call.query("since"), "since"),
        until=parse_moment(call.query("until"), "until"),
        tail=_tail(call.query("tail")),
    )
    framed = not container.config.spec.tty
    async with (
        streamed(
            call.request,
            content_type(call, framed),
            grabbing_failed(framed),
            at_once=call.flag("follow"),
        ) as response,
        aclosing(lines),
    ):
        async for line in lines:
            if line.stream in outputs or not framed:
                await response.write(_log_bytes(line, call.flag("timestamps"), framed, said))
    return response.response


def grabbing_failed(framed: bool) -> Callable[[str], bytes]:
    """Docker's text for logs that end with an error."""

    def last_words(text: str) -> bytes:
        data = f"Error grabbing logs: {text}\n".encode()
        return frame(ERROR, data) if framed else data

    return last_words


def _tail(text: str) -> int | None:
    """None for all. A negative or unreadable number means all, as in Docker."""
    return decimal(text)


def details_bytes(pairs: Iterable[tuple[str, str]]) -> bytes:
    """`name=value,name=value ` as before a line of a log with details."""
    return (",".join(f"{quote_plus(n)}={quote_plus(v)}" for n, v in sorted(pairs)) + " ").encode()


def _log_bytes(line: LogLine, stamped: bool, framed: bool, said: bytes = b"") -> bytes:
    """`said`: the details, before the text of the line."""
    data = said + line.data
    if stamped:
        data = f"{rfc3339_fixed(line.timestamp)} ".encode() + data
    return frame(line.stream, data) if framed else data


def _check_attachable(call: Call, container: Container, stream: bool) -> None:
    """A plain container may be attached to before it is started, and past output (no `stream`) is
    of any. Raises `Conflict` with Docker's texts."""
    name = container.config.name
    if container.paused:
        raise Conflict(f"container {name} is paused, unpause the container before attach")
    if call.node.plain.is_restarting(container.id):
        raise Conflict(f"container {name} is restarting, wait until the container is running")
    if stream and not container.is_plain and container.state != ContainerState.RUNNING:
        raise Conflict(f"container {container.id} is not running")


async def attach(call: Call) -> web.StreamResponse:
    """`logs`: the output so far; `stream`: from now on, and the input. With neither the answer ends
    at once, as in Docker."""
    container = find_container(call.node.containers, call.id)
    stream = call.flag("stream")
    _check_attachable(call, container, stream)
    outputs = _outputs(call)
    keys = keys_from(call.query("detachKeys"), "detach")
    attached = await call.node.containers.attach(container.id) if stream else None
    call.node.tell("attach", container)
    framed = not container.config.spec.tty
    stdin = call.flag("stdin") and container.config.spec.open_stdin
    keys = b"" if framed else keys

    async def work(connection: Connection) -> None:
        if call.flag("logs"):
            await connection.taken()
            if container.config.log_driver not in READABLE:
                data = f"Error attaching: {UNREADABLE}\n".encode()
                await connection.write(frame(STDOUT, data) if framed else data)
                return
            await _replay(call, container, connection.write, outputs, framed)
        if attached is not None and await join(
            attached, connection, stdin=stdin, outputs=outputs, framed=framed, keys=keys
        ):
            call.node.tell("detach", container)

    try:
        return await carry(call.request, content_type(call, framed), framed, work)
    finally:
        if attached is not None:
            attached.close()


async def _replay(
    call: Call,
    container: Container,
    write: Callable[[bytes], Awaitable[None]],
    outputs: frozenset[int],
    framed: bool,
) -> None:
    async for line in call.node.containers.logs(container.id):
        if line.stream in outputs or not framed:
            await write(_log_bytes(line, False, framed))
