"""The goal for a node's kernel while nobody can tell what the swarm needs of it: the node cannot read
of which swarm it is a member, or waits to be told for the first time.

The node's own networks are set up and mended as always. All else is left as it is found, whoever
made it: what the last daemon did for tasks carries traffic, and nobody else could set it up again.
In a namespace that both have a part in, what is planned is added, and nothing is removed.
"""

from collections.abc import Set

import msgspec

from weft.network.kernel_state import HOST, Bridge, KernelState, Link, Namespace
from weft.network.ownership import BRIDGE_TABLE, LOCAL_PORT_PREFIX, owns_bridge


def beside_swarm(
    actual: KernelState, planned: KernelState, shared: Set[str], gone: Set[str]
) -> KernelState:
    """The planned state of the node's own networks, with all that is found beside. `shared`:
    namespaces of containers that are also on networks of the swarm; `gone`: those of containers of
    the node's own that are no more."""
    found = {name: space for name, space in actual.namespaces.items() if name not in gone}
    for name, space in planned.namespaces.items():
        before = found.get(name) or Namespace(name=name)
        if name == HOST:
            space = _added(_without_own(before), space)
        elif name in shared:
            space = _added(before, space)
        found[name] = space
    return KernelState(found)


def _added(found: Namespace, planned: Namespace) -> Namespace:
    return msgspec.structs.replace(
        planned,
        links={**found.links, **planned.links},
        neighbours=found.neighbours | planned.neighbours,
        forwarding=found.forwarding | planned.forwarding,
        routes=found.routes | planned.routes,
        rules=found.rules | planned.rules,
        tables={**found.tables, **planned.tables},
    )


def _without_own(host: Namespace) -> Namespace:
    """The host's namespace without what belongs to the node's own networks."""
    own = {name for name, link in host.links.items() if _is_own(link)}
    return msgspec.structs.replace(
        host,
        links={name: link for name, link in host.links.items() if name not in own},
        neighbours=frozenset(each for each in host.neighbours if each.device not in own),
        forwarding=frozenset(each for each in host.forwarding if each.device not in own),
        routes=frozenset(each for each in host.routes if each.device not in own),
        tables={key: table for key, table in host.tables.items() if key[1] != BRIDGE_TABLE},
    )


def _is_own(link: Link) -> bool:
    is_bridge = isinstance(link.kind, Bridge) and owns_bridge(link.mac)
    return is_bridge or link.name.startswith(LOCAL_PORT_PREFIX)
