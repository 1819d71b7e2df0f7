"""Logs of services and of tasks, from all nodes.

A line is `[timestamp ]<details> <text>` in a frame of its stream. The details name node, service
and task; the docker command turns them into `name.slot.id@node    | `. Missing lines are reported
last, as an error in the stream.
"""

from contextlib import aclosing
from functools import lru_cache

from aiohttp import web

from weft.api.call import Call
from weft.api.container_streams import content_type, details_bytes, grabbing_failed, wanted_outputs
from weft.api.schema.common import parse_moment, rfc3339_fixed
from weft.api.services import find_service
from weft.api.streams import STDERR, STDOUT, frame, streamed
from weft.api.tasks import find_task
from weft.errors import InvalidArgument, Unsupported
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.log_details import Details
from weft.model.log_options import READABLE, UNREADABLE
from weft.model.logs import LogsWanted, TaskLog
from weft.model.numbers import decimal
from weft.model.service import TaskSpec


async def of_service(call: Call) -> web.StreamResponse:
    outputs = wanted_outputs(call)
    service = find_service(call.swarm.state, call.id)
    return await _stream(call, service.spec.task, _wanted(call, outputs, service=service.id))


async def of_task(call: Call) -> web.StreamResponse:
    outputs = wanted_outputs(call)
    task = find_task(call.swarm.state, call.id)
    return await _stream(call, task.spec, _wanted(call, outputs, task=task.id))


def _wanted(
    call: Call,
    outputs: frozenset[int],
    service: ServiceId | None = None,
    task: TaskId | None = None,
) -> LogsWanted:
    return LogsWanted(
        service=service,
        task=task,
        stdout=STDOUT in outputs,
        stderr=STDERR in outputs,
        follow=call.flag("follow"),
        since=parse_moment(call.query("since"), "since"),
        until=parse_moment(call.query("until"), "until"),
        tail=_tail(call.query("tail")),
    )


def _tail(text: str) -> int | None:
    """None means all lines. Unlike for a container, an invalid number is refused, as in Docker."""
    if text in ("", "all"):
        return None
    number = decimal(text.removeprefix("-"))
    if number is None:
        raise InvalidArgument('tail value must be a positive integer or "all"')
    if text.startswith("-"):
        raise InvalidArgument("negative tail values not supported")
    return number


async def _stream(call: Call, spec: TaskSpec, wanted: LogsWanted) -> web.StreamResponse:
    """Sends frames unless the current spec gives the tasks a terminal."""
    if spec.log_driver not in READABLE:
        raise Unsupported(UNREADABLE)
    framed, stamped, detailed = (
        not spec.container.tty,
        call.flag("timestamps"),
        call.flag("details"),
    )
    last_words = grabbing_failed(framed)
    async with (
        aclosing(call.swarm.logs(wanted)) as logs,
        streamed(
            call.request,
            content_type(call, framed),
            lambda text: last_words(f"rpc error: code = Unknown desc = {text}"),
            at_once=call.flag("follow"),
        ) as response,
    ):
        async for lines in logs:
            await response.write(
                b"".join(_bytes(line, stamped, detailed, framed) for line in lines)
            )
    return response.response


@lru_cache(1024)
def _details(node: NodeId, service: ServiceId, task: TaskId, others: Details) -> bytes:
    """Cached because every line has details."""
    own = (("node", node), ("service", service), ("task", task))
    return details_bytes((*others, *((f"com.docker.swarm.{kind}.id", id) for kind, id in own)))


def _bytes(log: TaskLog, stamped: bool, detailed: bool, framed: bool) -> bytes:
    data = log.line.data
    if detailed:
        data = _details(log.node, log.service, log.task, log.details) + data
    if stamped:
        data = f"{rfc3339_fixed(log.line.timestamp)} ".encode() + data
    return frame(log.line.stream, data) if framed else data
