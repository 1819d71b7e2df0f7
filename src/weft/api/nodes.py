"""Nodes of the swarm: list, inspect, update, remove."""

from operator import attrgetter

from aiohttp import web

from weft.api import filters
from weft.api.call import Call, answer
from weft.api.filters import swarm_label_matches
from weft.api.listing import answer_list
from weft.api.schema.node import NodeWire, node_json, spec_from
from weft.api.schema.tls import roots_of
from weft.model import lookup
from weft.model.ids import NodeId
from weft.model.node import Node
from weft.model.state import ClusterState

FILTERS = ("name", "id", "label", "node.label", "role", "membership")


def find_node(state: ClusterState, reference: str, own: NodeId | None) -> Node:
    """Finds by id, hostname or prefix; `self` is this node."""
    wanted = own or reference if reference == "self" else reference
    return lookup.find("node", wanted, state.nodes, name=attrgetter("hostname"))


async def listing(call: Call) -> web.Response:
    wanted = filters.without_empty(call.filters(FILTERS), ("role", "membership"))
    test = filters.compile_test(wanted, MAKERS)
    leadership_status, roots = call.swarm.leadership_status, roots_of(call.swarm.cluster)
    return await answer_list(
        call.swarm.state.nodes.values(),
        test,
        lambda node: node_json(node, leadership_status, roots),
    )


def _of_role(value: str) -> filters.Test[Node]:
    role = filters.among(value, ("worker", "manager"), "role")
    return lambda node: node.spec.role == role


def _of_membership(value: str) -> filters.Test[Node]:
    """Weft accepts every node that it knows; none is pending."""
    wanted = filters.among(value, ("accepted", "pending"), "membership")
    return lambda node: wanted == "accepted"


MAKERS: filters.Makers[Node] = {
    "name": lambda value: lambda node: node.hostname.startswith(value),
    "id": lambda value: lambda node: node.id.startswith(value),
    "label": lambda value: lambda node: swarm_label_matches(node.description.engine_labels, value),
    "node.label": lambda value: lambda node: swarm_label_matches(node.spec.labels, value),
    "role": _of_role,
    "membership": _of_membership,
}


async def inspect(call: Call) -> web.Response:
    node = find_node(call.swarm.state, call.id, call.node.membership.node)
    return answer(node_json(node, call.swarm.leadership_status, roots_of(call.swarm.cluster)))


async def update(call: Call) -> web.Response:
    swarm = call.swarm
    node = find_node(swarm.state, call.id, call.node.membership.node)
    version = call.number("version")
    await swarm.update_node(node.id, version, spec_from(await call.body(NodeWire)))
    return web.Response(status=200)


async def remove(call: Call) -> web.Response:
    swarm = call.swarm
    await swarm.remove_node(
        find_node(swarm.state, call.id, call.node.membership.node).id, call.flag("force")
    )
    return web.Response(status=200)
