"""Nodes of the swarm: list, inspect, update, remove."""

from aiohttp import web

from weft.api import filters, lookup
from weft.api.call import Call, answer
from weft.api.filters import label_matches
from weft.api.schema.node import NodeWire, node_json, spec_from
from weft.api.schema.tls import roots_of
from weft.errors import InvalidArgument
from weft.model.ids import NodeId
from weft.model.node import Node
from weft.model.state import ClusterState

FILTERS = ("name", "id", "label", "node.label", "role", "membership")


def find_node(state: ClusterState, reference: str, own: NodeId | None) -> Node:
    """By id, hostname or prefix; `self` is this node."""
    names: dict[str, list[Node]] = {}
    for node in state.nodes.values():
        names.setdefault(node.hostname, []).append(node)
    return lookup.find("node", own or reference if reference == "self" else reference, state.nodes, names)


async def listing(call: Call) -> web.Response:
    wanted = call.filters(FILTERS)
    for value in wanted.get("role", ()):
        if value not in ("worker", "manager"):
            raise InvalidArgument(f"invalid role filter: '{value}'")
    for value in wanted.get("membership", ()):
        if value not in ("accepted", "pending"):
            raise InvalidArgument(f"invalid membership filter: '{value}'")
    found = filters.select(
        list(call.swarm.state.nodes.values()),
        wanted,
        {
            "name": lambda node, value: node.hostname.startswith(value),
            "id": lambda node, value: node.id.startswith(value),
            "label": lambda node, value: label_matches(node.description.engine_labels, value),
            "node.label": lambda node, value: label_matches(node.spec.labels, value),
            "role": lambda node, value: node.spec.role == value,
            "membership": lambda node, value: value == "accepted",
        },
    )
    standing, roots = call.swarm.standing, roots_of(call.swarm.cluster)
    return answer([node_json(node, standing, roots) for node in found])


async def inspect(call: Call) -> web.Response:
    node = find_node(call.swarm.state, call.id, call.node.membership.node)
    return answer(node_json(node, call.swarm.standing, roots_of(call.swarm.cluster)))


async def update(call: Call) -> web.Response:
    swarm = call.swarm
    node = find_node(swarm.state, call.id, call.node.membership.node)
    version = call.number("version")
    await swarm.update_node(node.id, version, spec_from(await call.body(NodeWire)))
    return web.Response(status=200)


async def remove(call: Call) -> web.Response:
    swarm = call.swarm
    await swarm.remove_node(find_node(swarm.state, call.id, call.node.membership.node).id, call.flag("force"))
    return web.Response(status=200)
