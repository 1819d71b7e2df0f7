"""Networks: those of the swarm, from a manager's state, and those of this node, from its engine and
its agent."""

from contextlib import suppress

import msgspec
from aiohttp import web

from weft.api import filters
from weft.api.backend import Swarm
from weft.api.call import Call, answer, nothing
from weft.api.container_lookup import find_container
from weft.api.filters import boolean, label_matches, name_test
from weft.api.listing import answer_list
from weft.api.pruning import Prunable, prunable
from weft.api.schema.bridge_network import (
    ConnectWire,
    DisconnectWire,
    bridge_spec_from,
    endpoint_from,
)
from weft.api.schema.common import Json, now
from weft.api.schema.network import (
    NetworkWire,
    local_network_json,
    network_json,
    residents_json,
    spec_from,
)
from weft.control.requests.validation import PREDEFINED
from weft.errors import Conflict, Forbidden, InvalidArgument, NotFound, Unavailable, Unsupported
from weft.model.ids import NetworkId
from weft.model.local_network import LocalNetwork
from weft.model.network import Network
from weft.model.network_lookup import NOT_FOUND, find_network
from weft.model.sandbox import GATEWAY_BRIDGE

FILTERS = ("name", "id", "driver", "label", "scope", "type", "dangling")
BRIDGE = "bridge"
BUILT_IN = (BRIDGE, "host", "none")


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A network, whether the swarm's state or this node's agent knows it."""

    id: str
    name: str
    driver: str
    scope: str
    labels: dict[str, str]
    local: LocalNetwork | None = None
    swarm: Network | None = None

    def json(self, verbose: bool = False, residents: bool = True) -> Json:
        """`residents`: includes the containers on the network, which `inspect` shows and `list`
        does not."""
        if self.swarm is not None:
            body = network_json(self.swarm)
        else:
            assert self.local is not None
            body = local_network_json(self.local)
        return (
            body | residents_json(self.local, verbose)
            if self.local is not None and residents
            else body
        )


def views(call: Call) -> list[View]:
    """The networks of this node, then the networks of the swarm. On a manager only the state tells
    which swarm networks exist: this node may still have its part of a removed network for a
    moment."""
    mine = {network.id: network for network in call.node.local_networks()}
    swarm = _swarm_networks(call)
    found = [
        View(id=n.id, name=n.name, driver=n.driver, scope=n.scope, labels=dict(n.labels), local=n)
        for n in mine.values()
        if swarm is None or n.scope == "local"
    ]
    for network in swarm or ():
        spec, local = network.spec, mine.get(network.id)
        found.append(
            View(
                id=network.id,
                name=spec.name,
                driver=spec.driver,
                scope="swarm",
                labels=spec.labels,
                swarm=network,
                local=local,
            )
        )
    return found


def _swarm_networks(call: Call) -> list[Network] | None:
    """None on a node that is no manager."""
    try:
        return list(call.swarm.state.networks.values())
    except Unavailable:
        return None


async def listing(call: Call) -> web.Response:
    test = filters.compile_test(call.filters(FILTERS), _makers(call))
    return await answer_list(views(call), test, lambda view: view.json(residents=False))


def _makers(call: Call) -> filters.Makers[View]:
    def of_name(value: str) -> filters.Test[View]:
        matches = name_test(value)
        return lambda view: matches(view.name)

    def of_type(value: str) -> filters.Test[View]:
        if value not in ("builtin", "custom"):
            raise InvalidArgument(f"invalid filter 'type={value}'")
        return lambda view: (view.name in BUILT_IN) == (value == "builtin")

    def dangling(value: str) -> filters.Test[View]:
        expected, used = boolean(value, "dangling"), _used_networks(call)
        return lambda view: (view.name not in BUILT_IN and view.id not in used) == expected

    return {
        "name": of_name,
        "id": lambda value: lambda view: view.id.startswith(value),
        "driver": lambda value: lambda view: view.driver == value,
        "label": lambda value: lambda view: label_matches(view.labels, value),
        "scope": lambda value: lambda view: view.scope == value,
        "type": of_type,
        "dangling": dangling,
    }


def _used_networks(call: Call) -> set[str]:
    """Ids of the networks that this node's containers are on."""
    return {
        network.id
        for c in call.node.containers.containers()
        for network, _ in call.node.container_networks(c.id).values()
    }


async def inspect(call: Call) -> web.Response:
    scope = call.query("scope")
    if scope not in ("", "swarm", "local", "global"):
        raise InvalidArgument(f"invalid scope: {scope!r}")
    candidates = [view for view in views(call) if not scope or view.scope == scope]
    if scope == "swarm" and call.id not in {view.name for view in candidates}:
        candidates += [view for view in views(call) if view.name in ("host", BRIDGE)]
    view = find_network(candidates, call.id)
    # Docker Swarm has a swarm network for each of these two host networks; services refer to
    # them by it.
    return answer(
        view.json(call.flag("verbose")) | ({"Scope": "swarm"} if scope == "swarm" else {})
    )


async def create(call: Call) -> web.Response:
    wire = await call.body(NetworkWire)
    if wire.name in PREDEFINED:
        raise Forbidden(f"{wire.name} is a pre-defined network and cannot be created")
    if wire.driver in ("", BRIDGE, "default") and not wire.ingress:
        return await _create_here(call, wire)
    if wire.driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{wire.driver}" network is allowed')
    if wire.driver not in ("overlay", "", BRIDGE, "default"):
        raise Unsupported(
            f"cannot create network {wire.name}: driver {wire.driver} is not supported by Weft,"
            " only bridge and overlay are"
        )
    try:
        swarm = call.swarm
    except Unavailable as error:
        raise Forbidden(str(error)) from error
    spec = spec_from(wire)
    _check_name(call, spec.name)
    network = await swarm.create_network(spec)
    return answer({"Id": network.id, "Warning": "; ".join(swarm.network_warnings(network))}, 201)


async def _create_here(call: Call, wire: NetworkWire) -> web.Response:
    """A network that only this node has, in a swarm or not."""
    spec = bridge_spec_from(wire)
    _check_name(call, spec.name)
    network = await call.node.networks.create(spec)
    return answer({"Id": network.id, "Warning": ""}, 201)


def _check_name(call: Call, name: str) -> None:
    if any(view.name == name for view in views(call)):
        raise Conflict(f"network with name {name} already exists")


async def remove(call: Call) -> web.Response:
    view = find_network(views(call), call.id)
    if view.scope == "local":
        if view.name in BUILT_IN:
            raise Forbidden(f"{view.name} is a pre-defined network and cannot be removed")
        if view.name == GATEWAY_BRIDGE:
            raise Forbidden(f"cannot remove network {view.name}: Weft itself needs it")
        await call.node.networks.remove(view.id)
        return nothing()
    state = call.swarm.state
    await call.swarm.remove_network(_in_swarm(state.networks.get(NetworkId(view.id)), call.id).id)
    return nothing()


def _in_swarm(network: Network | None, reference: str) -> Network:
    if network is None:
        raise NotFound(NOT_FOUND.format(reference))
    return network


async def connect(call: Call) -> web.Response:
    name = _name(call)
    wire = await call.body(ConnectWire)
    container = find_container(call.node.containers, wire.container)
    await call.node.connect_container(container, endpoint_from(name, wire.endpoint))
    return nothing(200)


def _name(call: Call) -> str:
    """The network's name. A worker does not know the networks of the swarm that nothing of it is
    on: then the name is as the user wrote it, and a manager is asked. Raises as `find_network`."""
    try:
        return find_network(views(call), call.id).name
    except NotFound:
        membership = call.node.membership
        if membership.state != "active" or _swarm_networks(call) is not None:
            raise
        return call.id


async def disconnect(call: Call) -> web.Response:
    name = _name(call)
    wire = await call.body(DisconnectWire)
    container = find_container(call.node.containers, wire.container)
    await call.node.disconnect_container(container, name, wire.force)
    return nothing(200)


async def prune(call: Call) -> web.Response:
    """Removes this node's networks that no running container is on, then the swarm's that no
    service and no task uses."""
    is_wanted = prunable(call.filters(("label", "label!", "until")), now())
    removed = await call.node.networks.prune(lambda n: is_wanted(n.spec.labels, n.created_at))
    with suppress(Unavailable):
        removed += await _prune_swarm(call.swarm, is_wanted)
    return answer({"NetworksDeleted": removed or None})


async def _prune_swarm(swarm: Swarm, is_wanted: Prunable) -> list[str]:
    state = swarm.state
    used = {a.target for service in state.services.values() for a in service.spec.task.networks}
    removed = []
    for network in list(state.networks.values()):
        idle = (
            network.id not in used
            and not state.tasks_attached(network.id)
            and not network.spec.ingress
        )
        if idle and is_wanted(network.spec.labels, network.meta.created_at):
            await swarm.remove_network(network.id)
            removed.append(network.name)
    return removed
