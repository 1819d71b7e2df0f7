"""The store's state as one node sees it: its tasks, and the networks that they are on.

What is known of a network is the same for every node on it, so it is computed once (`NetworkView`) and shared by identity.
A manager keeps the views and brings them up to date with the events of a commit (`network_views(state, views, events)`): that
costs a copy of two tables per network touched and one record per object touched, however many nodes are listening. Views that
nothing happened to stay the same object, which `difference` recognises without looking inside.

    views   = network_views(state)                        once, at the start
    views   = network_views(state, views, events)         after each commit
    new     = assignment_for(state, node, views)          per node
    change  = difference(old, new, memo)                  per node; `memo` is a dict that lives for one round of nodes
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from weft.model.assignment import (
    Assignment,
    AssignmentChange,
    EndpointRecord,
    NetworkDefinition,
    NetworkView,
    ServiceRecord,
    TaskAssignment,
    load_balancer_id,
)
from weft.model.cluster import VXLAN_PORT
from weft.model.ids import NetworkId, NodeId, ServiceId, TaskId
from weft.model.network import Network
from weft.model.node import Node, NodeState
from weft.model.service import Service
from weft.model.state import ClusterState, Event
from weft.model.task import Attachment, Task, TaskState

Views = Mapping[NetworkId, NetworkView]
SHORT_ID = 12
_LOAD_BALANCER = load_balancer_id(NodeId(""))


# --- assignments


def assignment_for(
    state: ClusterState, node_id: NodeId, views: Views, tasks: dict[TaskId, TaskAssignment] | None = None
) -> Assignment:  # fmt: skip
    """What the node must run. `views` are those of `network_views` at this very state; `tasks` those of an earlier assignment, if
    no task of the node has changed since: most assignments are made because something happened on a network elsewhere."""
    cluster = state.cluster
    if tasks is None:
        found = state.tasks_on(node_id).values()
        tasks = {task.id: TaskAssignment.of(task, node_id) for task in found if _is_dispatched(task)}
    networks = {network: views[network] for network in _networks_of(state, node_id) if network in views}
    needs_keys = cluster is not None and any(view.definition.encrypted for view in networks.values())
    return Assignment(
        node=node_id,
        revision=state.revision,
        data_path_port=cluster.data_path_port if cluster else VXLAN_PORT,
        keys=cluster.data_keys if cluster is not None and needs_keys else (),
        tasks=tasks,
        networks=networks,
    )


def _is_dispatched(task: Task) -> bool:
    """Also one that is over: its agent keeps its container and log for as long as its record is kept."""
    return task.state >= TaskState.ASSIGNED and not (task.state.is_terminal and task.desired >= TaskState.REMOVE)


def _networks_of(state: ClusterState, node_id: NodeId) -> Iterator[NetworkId]:
    """Ingress, because every node answers for the published ports; then those of the node's tasks."""
    ingress = state.ingress
    if ingress is not None:
        yield ingress.id
    yield from (network for network in state.usage.networks(node_id) if ingress is None or network != ingress.id)


# --- views


class _Touched(msgspec.Struct):
    """What of the views a batch of events may have changed."""

    networks: set[NetworkId] = msgspec.field(default_factory=set)
    endpoints: set[tuple[NetworkId, str]] = msgspec.field(default_factory=set)
    services: set[tuple[NetworkId, ServiceId]] = msgspec.field(default_factory=set)

    def by_network(self) -> dict[NetworkId, "_Touched"]:
        parts: dict[NetworkId, _Touched] = {id: _Touched({id}) for id in self.networks}
        for endpoint in self.endpoints:
            parts.setdefault(endpoint[0], _Touched()).endpoints.add(endpoint)
        for service in self.services:
            parts.setdefault(service[0], _Touched()).services.add(service)
        return parts


def network_views(
    state: ClusterState, previous: Views | None = None, events: Iterable[Event] = ()
) -> dict[NetworkId, NetworkView]:
    """The views of all allocated networks. With `previous`, the views at some earlier state, and all `events` since then,
    only what they touch is computed; every other view is the previous object."""
    previous = previous or {}
    allocated = [network for network in state.networks.values() if network.segments]
    new = _whole_views(state, [network for network in allocated if network.id not in previous])
    touched = _touched(state, events).by_network()
    known = {
        id: _view_after(state, state.networks[id], view, touched[id]) if id in touched else view
        for id, view in _kept(state, previous)
    }
    return {network.id: new[network.id] if network.id in new else known[network.id] for network in allocated}


def _kept(state: ClusterState, previous: Views) -> Iterator[tuple[NetworkId, NetworkView]]:
    return ((id, view) for id, view in previous.items() if id in state.networks)


def _touched(state: ClusterState, events: Iterable[Event]) -> _Touched:
    touched = _Touched()
    for event in events:
        for obj in (event.before, event.after):
            if isinstance(obj, Task):
                touched.endpoints.update((a.network, obj.id) for a in obj.attachments)
            elif isinstance(obj, Service):
                touched.services.update((network, obj.id) for network in _networks_of_service(state, obj))
            elif isinstance(obj, Node):
                touched.endpoints.update((a.network, load_balancer_id(obj.id)) for a in obj.attachments)
            elif isinstance(obj, Network):
                touched.networks.add(obj.id)
        if _moved(event):
            tasks = state.tasks_on(NodeId(event.object.id)).values()
            touched.endpoints.update((a.network, task.id) for task in tasks for a in task.attachments)
    return touched


def _moved(event: Event) -> bool:
    """A node came, went, has another data path address, or does not answer: the endpoints behind it have another VTEP or serve no
    longer."""
    before, after = (
        (obj.data_path_address, _is_lost(obj)) if isinstance(obj, Node) else None for obj in (event.before, event.after)
    )
    return before != after


def _whole_views(state: ClusterState, networks: Sequence[Network]) -> dict[NetworkId, NetworkView]:
    """Views made afresh, in one walk over the nodes and services."""
    if not networks:
        return {}
    members: dict[NetworkId, _Touched] = {network.id: _Touched() for network in networks}
    nothing = _Touched()
    for network in networks:
        members[network.id].endpoints.update((network.id, task) for task in state.tasks_attached(network.id))
    for node in state.nodes.values():
        for leg in node.attachments:
            members.get(leg.network, nothing).endpoints.add((leg.network, load_balancer_id(node.id)))
    for service in state.services.values():
        for id in _networks_of_service(state, service):
            members.get(id, nothing).services.add((id, service.id))
    return {n.id: _view_after(state, n, NetworkView(_definition(n), {}, {}), members[n.id]) for n in networks}


def _view_after(state: ClusterState, network: Network, old: NetworkView, touched: _Touched) -> NetworkView:
    """The old view itself if nothing that shows in it has changed. `touched`: of this network alone."""
    definition = _definition(network) if network.id in touched.networks else old.definition
    endpoints = {id: _endpoint(state, network.id, id) for _, id in touched.endpoints}
    services = {id: _service_record(state, network.id, id) for _, id in touched.services}
    new_endpoints, new_services = _patched(old.endpoints, endpoints), _patched(old.services, services)
    if definition == old.definition and new_endpoints is old.endpoints and new_services is old.services:
        return old
    return NetworkView(definition, new_endpoints, new_services)


K = TypeVar("K")
V = TypeVar("V")


def _patched(table: dict[K, V], records: Mapping[K, V | None]) -> dict[K, V]:
    """The table with the records put in, None taken out; the same object if that makes no difference."""
    changed = {key: record for key, record in records.items() if table.get(key) != record}
    if not changed:
        return table
    copy = dict(table)
    for key, record in changed.items():
        if record is None:
            copy.pop(key, None)
        else:
            copy[key] = record
    return copy


# --- records


def _definition(network: Network) -> NetworkDefinition:
    spec = network.spec
    return NetworkDefinition(
        id=network.id, name=spec.name, segments=network.segments, mtu=spec.mtu,
        internal=spec.internal, ingress=spec.ingress, encrypted=spec.encrypted, icv_bits=spec.icv_bits,
    )  # fmt: skip


def _endpoint(state: ClusterState, network: NetworkId, id: str) -> EndpointRecord | None:
    if id.startswith(_LOAD_BALANCER):
        return _node_endpoint(state, network, NodeId(id.removeprefix(_LOAD_BALANCER)))
    return _task_endpoint(state, network, TaskId(id))


def _task_endpoint(state: ClusterState, network: NetworkId, id: TaskId) -> EndpointRecord | None:
    """From the time a task has a node and an address until it is over; it serves while it runs and is meant to, on a host
    that answers."""
    task = state.tasks.get(id)
    if task is None or task.node is None or task.state.is_terminal:
        return None
    attachment = _attachment(task.attachments, network)
    node = state.nodes.get(task.node)
    if attachment is None or node is None or node.data_path_address is None:
        return None
    return EndpointRecord(
        id=task.id, network=network, address=attachment.address, node=node.id, vtep=node.data_path_address,
        task=task.id, name=task.name, service=task.service, aliases=_aliases(task),
        serving=task.state == TaskState.RUNNING and task.desired == TaskState.RUNNING and not _is_lost(node),
    )  # fmt: skip


def _is_lost(node: Node) -> bool:
    """Its host does not answer, but its tasks are not given up yet."""
    return node.status.state is NodeState.DISCONNECTED


def _node_endpoint(state: ClusterState, network: NetworkId, id: NodeId) -> EndpointRecord | None:
    node = state.nodes.get(id)
    attachment = _attachment(node.attachments, network) if node else None
    if node is None or attachment is None or node.data_path_address is None:
        return None
    return EndpointRecord(
        id=load_balancer_id(id), network=network, address=attachment.address, node=id, vtep=node.data_path_address
    )


def _attachment(attachments: tuple[Attachment, ...], network: NetworkId) -> Attachment | None:
    return next((a for a in attachments if a.network == network), None)


def _aliases(task: Task) -> tuple[str, ...]:
    """Its container's short id, once known, and its hostname, if that is a plain one."""
    container, hostname = task.status.container, task.spec.container.hostname
    short = (container.id[:SHORT_ID],) if container and container.id else ()
    return short + ((hostname,) if hostname and "{{" not in hostname else ())


def _networks_of_service(state: ClusterState, service: Service) -> Iterator[NetworkId]:
    yield from (attachment.target for attachment in service.spec.task.networks)
    if state.ingress is not None:
        yield state.ingress.id


def _service_record(state: ClusterState, network: NetworkId, id: ServiceId) -> ServiceRecord | None:
    """On ingress the service's ports, elsewhere its address and names."""
    service = state.services.get(id)
    if service is None:
        return None
    if state.ingress is not None and network == state.ingress.id:
        ports = tuple(p for p in service.endpoint.ports if p.mode == "ingress" and p.published)
        return ServiceRecord(id=id, network=network, name=service.name, ports=ports) if ports else None
    wanted = next((a for a in service.spec.task.networks if a.target == network), None)
    if wanted is None:
        return None
    address = next((a.address.ip for a in service.endpoint.addresses if a.network == network), None)
    return ServiceRecord(id=id, network=network, name=service.name, virtual_address=address, aliases=wanted.aliases)


# --- differences


class ViewDifference(msgspec.Struct, frozen=True):
    """From one view of a network to another; the views are kept so that their identities stay theirs while this is remembered."""

    old: NetworkView
    new: NetworkView
    endpoints: tuple[EndpointRecord, ...]
    removed_endpoints: tuple[tuple[NetworkId, str], ...]
    services: tuple[ServiceRecord, ...]
    removed_services: tuple[tuple[NetworkId, ServiceId], ...]


Memo = dict[tuple[int, int], ViewDifference]
"""Differences of shared views by the identities of both, so that a thousand nodes on a network compare its views once."""


def difference(old: Assignment | None, new: Assignment, memo: Memo | None = None) -> AssignmentChange:
    """The change with which `old.after(change) == new`; from nothing, a full one."""
    before = old if old is not None else Assignment(node=new.node)
    tasks, removed_tasks = _table_difference(before.tasks, new.tasks)
    views = list(_view_differences(before, new, memo if memo is not None else {}))
    known = before.networks
    return AssignmentChange(
        revision=new.revision,
        full=old is None,
        data_path_port=new.data_path_port,
        keys=new.keys if before.keys != new.keys else None,
        tasks=tasks,
        removed_tasks=removed_tasks,
        networks=tuple(
            v.definition for id, v in new.networks.items() if id not in known or known[id].definition != v.definition
        ),
        removed_networks=tuple(known.keys() - new.networks.keys()),
        endpoints=tuple(record for view in views for record in view.endpoints),
        removed_endpoints=tuple(key for view in views for key in view.removed_endpoints),
        services=tuple(record for view in views for record in view.services),
        removed_services=tuple(key for view in views for key in view.removed_services),
    )


def _view_differences(before: Assignment, new: Assignment, memo: Memo) -> Iterator[ViewDifference]:
    for id, view in new.networks.items():
        old = before.networks.get(id)
        if old is view:
            continue
        if old is None:
            yield ViewDifference(view, view, tuple(view.endpoints.values()), (), tuple(view.services.values()), ())
            continue
        key = (_identity(old), _identity(view))
        if key not in memo:
            memo[key] = _view_difference(old, view)
        yield memo[key]


def _identity(view: NetworkView) -> int:
    return id(view)


def _view_difference(old: NetworkView, new: NetworkView) -> ViewDifference:
    network = new.definition.id
    endpoints, removed_endpoints = _table_difference(old.endpoints, new.endpoints)
    services, removed_services = _table_difference(old.services, new.services)
    return ViewDifference(
        old, new,
        endpoints, tuple((network, key) for key in removed_endpoints),
        services, tuple((network, key) for key in removed_services),
    )  # fmt: skip


def _table_difference(old: dict[K, V], new: dict[K, V]) -> tuple[tuple[V, ...], tuple[K, ...]]:
    """(records new or changed, keys gone)"""
    if old is new:
        return (), ()
    changed = tuple(record for key, record in new.items() if (known := old.get(key)) is not record and known != record)
    return changed, tuple(old.keys() - new.keys())
