"""Containers of this node: list, inspect, stop, kill, wait, processes, remove. Services create
containers; this API creates none."""

import asyncio
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress

from aiohttp import web

from weft.api import filters, processes
from weft.api.call import Call, answer, nothing
from weft.api.container_lookup import find_container
from weft.api.filters import boolean, label_matches, name_test
from weft.api.listing import answer_list
from weft.api.schema.common import Json, encode, now
from weft.api.schema.container import (
    ContainerContext,
    container_json,
    container_summary_json,
    port_list,
)
from weft.api.streams import streamed
from weft.api.versions import container_answer
from weft.errors import Conflict, InvalidArgument, NotFound, Unsupported, clip
from weft.model.container import Container, ContainerState
from weft.model.ids import ContainerId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.numbers import decimal
from weft.model.signals import signal_name, signal_number
from weft.runtime.base import Runtime

FILTERS = (
    "id", "name", "label", "status", "ancestor", "network", "is-task", "exited", "before", "since", "health", "volume", "isolation",
    "publish", "expose",
)  # fmt: skip
HEALTH = ("none", "starting", "healthy", "unhealthy")
STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
FOR_EVER = 86400
MAX_GRACE = 2**31 - 1
"""Seconds."""
MAX_SIDE = 2**16 - 1
"""Rows and columns of a terminal: struct winsize has 16 bits for each."""
POLL = 0.2
"""Seconds between checks whether a container is gone: the runtime reports ends, but not
removals."""


def context_of(call: Call, container: Container) -> ContainerContext:
    try:
        image = call.node.images.find(container.image).config
    except NotFound:
        return ContainerContext(**_places(call, container))
    return ContainerContext(image=image, **_places(call, container))


def _places(call: Call, container: Container) -> Json:
    return {
        "networks": call.node.container_networks(container.id),
        "gateway": call.node.container_gateway(container.id),
        "execs": call.execs.of(container.id),
        "health": call.node.health(container),
    }


async def listing(call: Call) -> web.Response:
    wanted = call.filters(FILTERS)
    limit = call.number("limit") if call.query("limit") not in ("", "-1") else 0
    containers = sorted(call.node.containers.containers(), key=lambda c: c.created_at, reverse=True)
    found = filters.select(containers, wanted, _makers(call))
    if not (call.flag("all") or limit or wanted.keys() & {"status", "exited", "before", "since"}):
        found = [container for container in found if container.state == ContainerState.RUNNING]
    shown = found[:limit] if limit else found
    moment, sizes = now(), await _sizes(call, shown)
    return await answer_list(
        shown,
        lambda _: True,
        lambda container: container_summary_json(
            container, context_of(call, container), moment, sizes.get(container.id)
        ),
    )


async def _sizes(call: Call, containers: Sequence[Container]) -> dict[ContainerId, tuple[int, int]]:
    """Empty unless the request asks for sizes."""
    found = {}
    for container in containers if call.flag("size") else ():
        with suppress(NotFound):  # removed meanwhile
            found[container.id] = await call.node.inside.sizes(container.id)
    return found


def _makers(call: Call) -> filters.Makers[Container]:
    runtime = call.node.containers

    def on_network(container: Container, wanted: str) -> bool:
        places = call.node.container_networks(container.id)
        return wanted in places or any(
            network.id.startswith(wanted) for network, _ in places.values()
        )

    def of_name(value: str) -> filters.Test[Container]:
        matches = name_test(value)
        return lambda c: matches(f"/{c.config.name}") or matches(c.config.name)

    def of_status(value: str) -> filters.Test[Container]:
        if value not in STATES:
            raise InvalidArgument(f"invalid filter 'status={value}'")
        return lambda c: c.state == value

    def of_image(value: str) -> filters.Test[Container]:
        image = _image_id(call, value)
        return lambda c: c.image == image

    def is_task(value: str) -> filters.Test[Container]:
        expected = boolean(value, "is-task")
        return lambda c: ("com.docker.swarm.task.id" in c.config.labels) == expected

    def of_health(value: str) -> filters.Test[Container]:
        if value not in HEALTH:
            raise InvalidArgument(
                f"invalid filter 'health={value}': invalid value for health ({value}): must be one"
                f" of {', '.join(HEALTH)}"
            )

        def test(container: Container) -> bool:
            health = call.node.health(container)
            return value == ("none" if health is None else health.status)

        return test

    return {
        "id": lambda value: lambda c: c.id.startswith(value),
        "name": of_name,
        "label": lambda value: lambda c: label_matches(c.config.labels, value),
        "status": of_status,
        "ancestor": of_image,
        "network": lambda value: lambda c: on_network(c, value),
        "is-task": is_task,
        "exited": lambda value: (
            lambda c: c.state == ContainerState.EXITED and str(c.exit_code) == value
        ),
        "before": _made(runtime, operator.lt),
        "since": _made(runtime, operator.gt),
        "health": of_health,
        "volume": _on_volume,
        "isolation": lambda value: lambda c: True,
        "publish": _of_ports(call, "publish", "PublicPort"),
        "expose": _of_ports(call, "expose", "PrivatePort"),
    }


def _made(
    runtime: Runtime, is_wanted: Callable[[Nanoseconds, Nanoseconds], bool]
) -> Callable[[str], filters.Test[Container]]:
    """`is_wanted(when a container was made, when the named one was)`."""

    def test(value: str) -> filters.Test[Container]:
        moment = find_container(runtime, value).created_at
        return lambda c: is_wanted(c.created_at, moment)

    return test


def _on_volume(value: str) -> filters.Test[Container]:
    """By the volume's name or the host's path, or by the place in the container."""
    return lambda c: any(
        value in (point.name or point.source, point.destination) for point in c.config.mount_points
    )


def _of_ports(call: Call, key: str, field: str) -> Callable[[str], filters.Test[Container]]:
    def make(value: str) -> filters.Test[Container]:
        first, last, protocol = port_range(key, value)

        def test(container: Container) -> bool:
            ports = port_list(container, context_of(call, container).image)
            return any(
                port["Type"] == protocol and first <= port.get(field, 0) <= last for port in ports
            )

        return test

    return make


def port_range(key: str, text: str) -> tuple[int, int, str]:
    """Parses `80`, `80/udp` or `8000-8010/tcp`. Raises `InvalidArgument`."""
    numbers, _, protocol = text.partition("/")
    first, dash, last = numbers.partition("-")
    ends = decimal(first, MAX_SIDE), decimal(last if dash else first, MAX_SIDE)
    if (
        ends[0] is None
        or ends[1] is None
        or ends[0] > ends[1]
        or protocol not in ("", "tcp", "udp", "sctp")
    ):
        raise InvalidArgument(f"invalid filter '{key}={clip(text)}'")
    return ends[0], ends[1], protocol or "tcp"


def _image_id(call: Call, reference: str) -> str:
    try:
        return call.node.images.find(reference).id
    except (NotFound, InvalidArgument):
        return ""


async def inspect(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    sizes = (await _sizes(call, [container])).get(container.id)
    body = container_json(container, context_of(call, container), sizes)
    return answer(container_answer(body, call.api_version))


async def stop(call: Call) -> web.Response:
    """Answers 304 if the container does not run, as Docker. The swarm starts another container if
    the service asks for one."""
    container = find_container(call.node.containers, call.id)
    if container.state != ContainerState.RUNNING:
        return nothing(304)
    if call.query("signal"):
        raise Unsupported(
            "a stop signal of the request (signal) is not supported by Weft: use kill"
        )
    await call.node.stop_container(container, _grace(call, container))
    return nothing()


def _grace(call: Call, container: Container) -> Nanoseconds:
    """The request's grace period in seconds, or the container's own. -1 means for ever, which is a
    day here: long enough for a container that was asked to stop."""
    text = call.query("t")
    if not text:
        return container.stop_grace_period
    seconds = decimal(text.removeprefix("-"), MAX_GRACE)
    if seconds is None:
        raise InvalidArgument(f"invalid t: {clip(text)!r} is not a number of seconds")
    return (FOR_EVER if text.startswith("-") else seconds) * SECOND


async def start(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    if container.state == ContainerState.RUNNING:
        return nothing(304)
    raise Unsupported(
        f"cannot start container {container.config.name}: not supported by Weft, whose services"
        " start a new one"
    )


async def restart(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    raise Unsupported(
        f"cannot restart container {container.config.name}: not supported by Weft: stop it, and its"
        " service starts a new one"
    )


async def kill(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    if container.state != ContainerState.RUNNING:
        raise Conflict(f"cannot kill container: {call.id}: container {container.id} is not running")
    number = signal_number(call.query("signal") or "SIGKILL")
    await call.node.kill_container(container, signal_name(number))
    return nothing()


async def remove(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    if call.flag("link"):
        raise Unsupported("links (link) are not supported by Weft")
    if container.state == ContainerState.RUNNING and not call.flag("force"):
        raise Conflict(
            f'cannot remove container "{container.config.name}": container is running: '
            "stop the container before removing or force remove"
        )
    await call.node.remove_container(container.id, volumes=call.flag("v"))
    call.execs.forget(container.id)
    return nothing()


async def wait(call: Call) -> web.StreamResponse:
    """Sends the headers at once: the client waits for them before it lets the container end."""
    container = find_container(call.node.containers, call.id)
    condition = call.query("condition") or "not-running"
    if condition not in ("not-running", "next-exit", "removed"):
        raise InvalidArgument(f'invalid condition: "{condition}"')
    async with streamed(call.request, "application/json", _waiting_failed) as response:
        ended = await call.node.containers.wait(container.id)
        while condition == "removed" and any(
            c.id == container.id for c in call.node.containers.containers()
        ):
            await asyncio.sleep(POLL)
        await response.write(b'{"StatusCode":%d}\n' % ended.exit_code)
    return response.response


def _waiting_failed(text: str) -> bytes:
    return encode({"StatusCode": -1, "Error": {"Message": text}})


async def resize(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    height, width = call.number("h", MAX_SIDE), call.number("w", MAX_SIDE)
    await call.node.containers.resize(container.id, height, width)
    call.node.tell("resize", container, height=str(height), width=str(width))
    return nothing(200)


async def top(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    if container.state != ContainerState.RUNNING:
        raise Conflict(f"container {container.id} is not running")
    options = processes.arguments(call.query("ps_args"))
    pids = await call.node.containers.top(container.id)
    if options in ([], ["-ef"]):
        titles: Sequence[str] = processes.TITLES
        rows = await asyncio.to_thread(processes.rows, pids)
    else:
        titles, rows = await processes.listed(pids, options)
    call.node.tell("top", container)
    return answer({"Titles": titles, "Processes": rows})


async def create(call: Call) -> web.Response:
    raise Unsupported(
        "cannot create a container: not supported by Weft, which runs services: "
        "use `docker service create` in place of `docker run` and `docker create`"
    )
