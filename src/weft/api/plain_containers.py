"""Plain containers of this node: create, start, restart, pause, rename, update, prune.

A task's container is its service's: what would change it behind the manager's back is refused."""

import os
from collections.abc import Iterable
from contextlib import suppress

import msgspec
from aiohttp import web

from weft.api import filters
from weft.api.call import Call, answer, nothing
from weft.api.container_lookup import find_container
from weft.api.container_states import check_runs, counts_as_running
from weft.api.grace import grace_of, stop_signal_of
from weft.api.names import random_name
from weft.api.platforms import check_native
from weft.api.pruning import prunable
from weft.api.schema.common import now
from weft.api.schema.container_request import (
    limits_from,
    request_from,
    restart_from,
    updated_from,
)
from weft.api.schema.container_wire import NewContainerWire, UpdateContainerWire
from weft.api.schema.mounts_written import inherited_from
from weft.api.schema.older_containers import as_of, warnings_of, whole_trees_are_read_only
from weft.control.requests.containers import (
    check_container_name,
    validate_container,
)
from weft.control.requests.limit_updates import updated_limits
from weft.control.requests.possible_limits import possible_limits
from weft.errors import Conflict, InvalidArgument, NotFound, Unsupported
from weft.model import references
from weft.model.container import Container, ContainerState
from weft.model.endpoint_settings import EndpointSettings
from weft.model.ids import ContainerId
from weft.model.limits import FurtherLimits
from weft.model.service import Mount, Resources

PRUNE_FILTERS = ("label", "label!", "until")
NAMES = 6
"""Tries to find a name that nobody has, before it gets a longer number."""


async def create(call: Call) -> web.Response:
    wire = await call.body(NewContainerWire)
    if not wire.image:
        raise InvalidArgument("config cannot be empty in order to create a container")
    warnings = warnings_of(wire, call.api_version)
    wire = as_of(wire, call.api_version)
    check_native(call)
    name = call.query("name").removeprefix("/") or _free_name(call)
    inherited = tuple(
        mount for text in wire.host_config.volumes_from for mount in _inherited(call, text)
    )
    request = request_from(
        wire,
        name,
        lambda other: _other(call, other).id,
        inherited,
        read_only_trees=whole_trees_are_read_only(call.api_version),
    )
    validate_container(request)
    _check_addresses(call, request.plain.networks)
    _check_image(call, wire.image)
    further, discarded = possible_limits(
        request.limits, request.further, call.node.info.missing_limits
    )
    warnings += discarded
    id = await call.node.plain.create(msgspec.structs.replace(request, further=further))
    return answer({"Id": id, "Warnings": warnings}, 201)


def _inherited(call: Call, text: str) -> list[Mount]:
    name = text.partition(":")[0]
    return inherited_from(text, {name: _other(call, name).config.mount_points})


def _check_addresses(call: Call, wanted: Iterable[EndpointSettings]) -> None:
    """Raises `InvalidArgument` for an address of IPv6 that a network of this node cannot give."""
    for settings in wanted:
        if settings.ipv6_address is None:
            continue
        with suppress(NotFound):  # its start tells that
            network = call.node.networks.get(settings.network)
            try:
                network.spec.check_ipv6(settings.ipv6_address)
            except InvalidArgument as error:
                raise InvalidArgument(
                    f"invalid config for network {settings.network}: {error}"
                ) from None


def _other(call: Call, reference: str) -> Container:
    """A container that the request for a new one names. Raises `InvalidArgument`: to a request that
    is not found the docker command answers by pulling the image."""
    try:
        return find_container(call.node.containers, reference)
    except NotFound as error:
        raise InvalidArgument(str(error)) from error


def _check_image(call: Call, reference: str) -> None:
    """Raises `NotFound` with the text that makes the docker command pull the image."""
    try:
        call.node.images.find(reference)
    except NotFound:
        name, tag, digest = references.parse(reference)
        full = f"{name}:{tag}" if tag else name
        shown = f"{full}@{digest}" if digest else full
        raise NotFound(f"No such image: {shown}") from None


def _free_name(call: Call) -> str:
    taken = {container.config.name for container in call.node.containers.containers()}
    for _ in range(NAMES):
        name = random_name(os.urandom(4))
        if name not in taken:
            return name
    return f"{name}_{os.urandom(4).hex()}"


async def start(call: Call) -> web.Response:
    """Docker's first versions of the API took the container's configuration again."""
    container = find_container(call.node.containers, call.id)
    if counts_as_running(call, container):
        if container.paused:
            raise Conflict("cannot start a paused container, try unpause instead")
        return nothing(304)
    _check_plain(container, "start", ", whose services start a new one")
    if call.query("checkpoint"):
        raise Unsupported("starting from a checkpoint (checkpoint) is not supported by Weft")
    await call.node.plain.start(container.id)
    return nothing()


async def restart(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    _check_plain(container, "restart", ": stop it, and its service starts a new one")
    await call.node.plain.restart(container, grace_of(call, container), stop_signal_of(call))
    return nothing()


async def pause(call: Call) -> web.Response:
    container = _plain(call, "pause")
    check_runs(call, container)
    await call.node.plain.pause(container)
    return nothing()


async def unpause(call: Call) -> web.Response:
    await call.node.plain.unpause(_plain(call, "unpause"))
    return nothing()


def _plain(call: Call, verb: str) -> Container:
    """The plain container of the request."""
    container = find_container(call.node.containers, call.id)
    _check_plain(container, verb, "")
    return container


async def rename(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    _check_plain(container, "rename", "")
    name = call.query("name").removeprefix("/")
    if not name:
        raise InvalidArgument("Neither old nor new names may be empty")
    if name == container.config.name:
        raise InvalidArgument("Renaming a container with the same name as its current name")
    check_container_name(name)
    try:
        await call.node.plain.rename(container, name)
    except Conflict as error:
        raise Conflict(f"Error when allocating new name: {error}") from error
    return nothing()


async def update(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    _check_plain(container, "update", ": update its service")
    wire = await call.body(UpdateContainerWire)
    new = limits_from(wire)
    further, warnings = possible_limits(new, updated_from(wire), call.node.info.missing_limits)

    def change(present: Container) -> tuple[Resources, FurtherLimits]:
        return updated_limits(present, new, further, says_pids=wire.pids_limit is not None)

    restart = restart_from(wire.restart_policy) if wire.restart_policy.name else None
    await call.node.plain.update(container, change, restart)
    return answer({"Warnings": warnings or None})


def _check_plain(container: Container, verb: str, hint: str) -> None:
    if not container.is_plain:
        raise Unsupported(
            f"cannot {verb} container {container.config.name}: not supported by Weft"
            + (hint or ", which does that to no container of a task")
        )


async def prune(call: Call) -> web.Response:
    """Removes containers that users have made; the swarm keeps its own history of tasks."""
    is_wanted = prunable(call.filters(PRUNE_FILTERS), now())

    def test(container: Container) -> bool:
        return is_wanted(container.config.labels, container.created_at)

    sizes = await _sizes(call, test)
    removed = await call.node.plain.prune(test)
    reclaimed = sum(sizes.get(id, 0) for id in removed)
    return answer({"ContainersDeleted": removed or None, "SpaceReclaimed": reclaimed})


async def _sizes(call: Call, test: filters.Test[Container]) -> dict[ContainerId, int]:
    """Bytes that the containers have written which are about to be removed."""
    found = {}
    for container in call.node.containers.containers():
        is_over = container.state is not ContainerState.RUNNING
        if container.is_plain and is_over and test(container):
            with suppress(NotFound):  # removed meanwhile
                found[container.id] = (await call.node.inside.sizes(container.id))[0]
    return found
