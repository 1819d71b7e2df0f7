"""All containers of this node, of tasks and plain ones: list, inspect, stop, kill, wait, processes,
remove. `plain_containers.py` has what only plain ones can do."""

import asyncio
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress

from aiohttp import web

from weft.api import filters, processes
from weft.api.call import Call, answer, nothing
from weft.api.container_lookup import find_container
from weft.api.container_states import check_removable, check_runs, counts_as_running
from weft.api.filters import boolean, label_matches, name_test
from weft.api.grace import grace_of, stop_signal_of
from weft.api.listing import answer_list
from weft.api.schema.common import Json, encode, now
from weft.api.schema.container import (
    ContainerContext,
    container_json,
    container_summary_json,
    port_list,
    state_name,
)
from weft.api.streams import streamed
from weft.api.versions import container_answer
from weft.errors import Conflict, InvalidArgument, NotFound, Unsupported, clip
from weft.model.container import Container, ContainerState
from weft.model.ids import ContainerId
from weft.model.meta import Nanoseconds
from weft.model.numbers import decimal
from weft.model.signals import signal_name, signal_number
from weft.runtime.base import Runtime

FILTERS = (
    "id", "name", "label", "status", "ancestor", "network", "is-task", "exited", "before", "since", "health", "volume", "isolation",
    "publish", "expose",
)  # fmt: skip
HEALTH = ("none", "starting", "healthy", "unhealthy")
STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
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
        "restarting": call.node.plain.is_restarting(container.id),
        "network_ids": _network_ids(call) if container.is_plain else {},
    }


def _network_ids(call: Call) -> dict[str, str]:
    return {network.name: network.id for network in call.node.local_networks()}


async def listing(call: Call) -> web.Response:
    wanted = call.filters(FILTERS)
    limit = call.number("limit") if call.query("limit") not in ("", "-1") else 0
    containers = sorted(call.node.containers.containers(), key=lambda c: c.created_at, reverse=True)
    found = filters.select(containers, wanted, _makers(call))
    if not (call.flag("all") or limit or wanted.keys() & {"status", "exited", "before", "since"}):
        found = [c for c in found if counts_as_running(call, c)]
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
        return lambda c: state_name(c, call.node.plain.is_restarting(c.id)) == value

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
    if not counts_as_running(call, container):
        return nothing(304)
    await call.node.stop_container(container, grace_of(call, container), stop_signal_of(call))
    return nothing()


async def kill(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    if not counts_as_running(call, container):
        raise Conflict(f"cannot kill container: {call.id}: container {container.id} is not running")
    number = signal_number(call.query("signal") or "SIGKILL")
    await call.node.kill_container(container, signal_name(number))
    return nothing()


async def remove(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    if call.flag("link"):
        raise Unsupported("links (link) are not supported by Weft")
    if not call.flag("force"):
        check_removable(call, container)
    await call.node.remove_container(container.id, volumes=call.flag("v"))
    call.execs.forget(container.id)
    return nothing()


async def wait(call: Call) -> web.StreamResponse:
    """Sends the headers at once: the client waits for them before it starts the container, or lets
    it end."""
    container = find_container(call.node.containers, call.id)
    condition = call.query("condition") or "not-running"
    if condition not in ("not-running", "next-exit", "removed"):
        raise InvalidArgument(f'invalid condition: "{condition}"')
    waiting = _plain_end if container.is_plain else _task_end
    ended = asyncio.ensure_future(waiting(call, container, condition))
    try:
        async with streamed(call.request, "application/json", _waiting_failed) as response:
            await response.write(b'{"StatusCode":%d}\n' % (await ended).exit_code)
    finally:
        ended.cancel()
    return response.response


def _waiting_failed(text: str) -> bytes:
    return encode({"StatusCode": -1, "Error": {"Message": text}})


async def _plain_end(call: Call, container: Container, condition: str) -> Container:
    plain = call.node.plain
    if condition == "removed":
        return await plain.removal(container.id)
    if condition == "not-running" and not counts_as_running(call, container):
        return container
    return await plain.next_end(container.id)


async def _task_end(call: Call, container: Container, condition: str) -> Container:
    ended = await call.node.containers.wait(container.id)
    while condition == "removed" and any(
        c.id == container.id for c in call.node.containers.containers()
    ):
        await asyncio.sleep(POLL)
    return ended


async def resize(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    height, width = call.number("h", MAX_SIDE), call.number("w", MAX_SIDE)
    await call.node.containers.resize(container.id, height, width)
    call.node.tell("resize", container, height=str(height), width=str(width))
    return nothing(200)


async def top(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    check_runs(call, container)
    options = processes.arguments(call.query("ps_args"))
    pids = await call.node.containers.top(container.id)
    if options in ([], ["-ef"]):
        titles: Sequence[str] = processes.TITLES
        rows = await asyncio.to_thread(processes.rows, pids)
    else:
        titles, rows = await processes.listed(pids, options)
    call.node.tell("top", container)
    return answer({"Titles": titles, "Processes": rows})
