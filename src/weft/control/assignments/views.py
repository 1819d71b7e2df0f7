"""Networks as the nodes on them see them.

All nodes on a network know the same about it, so a view is computed once and shared by identity. A
manager keeps the views and updates them with the events of each commit. That costs a copy of two
tables per affected network and one record per affected object, however many nodes are listening. An
unaffected view stays the same object, which `differences.difference` recognises without looking
inside.

A view says where new connections go (`serving`) and, until a task has ended, how established ones
are forwarded: its endpoint and the ports that it was started with stay that long, even if its
service is gone.

    views   = network_views(state)                  once, at the start
    views   = network_views(state, views, events)   after each commit
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from weft.model.addresses import MIN_UNDERLAY_MTU
from weft.model.assignment import (
    EndpointRecord,
    NetworkDefinition,
    NetworkView,
    ServiceRecord,
    load_balancer_id,
)
from weft.model.ids import NetworkId, NodeId, ServiceId, TaskId
from weft.model.network import Network
from weft.model.node import Node, NodeState
from weft.model.service import PublishedPort, Service
from weft.model.state import ClusterState, Event
from weft.model.task import Attachment, Task

Views = Mapping[NetworkId, NetworkView]
SHORT_ID = 12
_LOAD_BALANCER = load_balancer_id(NodeId(""))


class _Touched(msgspec.Struct):
    """The parts of a network's view that a batch of events may have changed."""

    definition: bool = False
    endpoints: set[str] = msgspec.field(default_factory=set)
    services: set[ServiceId] = msgspec.field(default_factory=set)


def network_views(
    state: ClusterState, previous: Views | None = None, events: Iterable[Event] = ()
) -> dict[NetworkId, NetworkView]:
    """The views of all allocated networks. `previous`: the views at an earlier state, with all
    `events` since then; only views that the events affect are computed, all others are the previous
    objects."""
    previous = previous or {}
    touched = _touched(state, previous, events)
    is_new = any(id not in previous for id in state.networks)
    mtu = _smallest_mtu(state) if is_new or any(t.definition for t in touched.values()) else 0
    return {
        network.id: _view_now(
            state, network, mtu, previous.get(network.id), touched.get(network.id)
        )
        for network in state.networks.values()
        if network.segments
    }


def _touched(
    state: ClusterState, previous: Views, events: Iterable[Event]
) -> dict[NetworkId, _Touched]:
    touched: defaultdict[NetworkId, _Touched] = defaultdict(_Touched)
    for event in events:
        for obj in (event.before, event.after):
            if isinstance(obj, Task):
                _touch_task(touched, state, obj)
            elif isinstance(obj, Service):
                for network in _networks_of_service(state, previous, obj):
                    touched[network].services.add(obj.id)
            elif isinstance(obj, Node):
                for leg in obj.attachments:
                    touched[leg.network].endpoints.add(load_balancer_id(obj.id))
            elif isinstance(obj, Network):
                touched[obj.id].definition = True
        if _has_another_mtu(event):
            for id in state.networks:
                touched[id].definition = True
        if _moved(event):
            for task in state.tasks_on(NodeId(event.object.id)).values():
                for attachment in task.attachments:
                    touched[attachment.network].endpoints.add(task.id)
    return touched


def _touch_task(touched: dict[NetworkId, _Touched], state: ClusterState, task: Task) -> None:
    """Also touches the service of a task made for another version, or of a removed service: its
    record may contain the task's ports and aliases. An attached container has no service."""
    service = state.services.get(task.service)
    is_of_another = task.attached is None and (
        service is None or task.spec_version != service.spec_version
    )
    for attachment in task.attachments:
        touched[attachment.network].endpoints.add(task.id)
        if is_of_another:
            touched[attachment.network].services.add(task.service)


def _moved(event: Event) -> bool:
    """Whether a node came, went, has another data path address, or stopped or resumed answering:
    then its endpoints have another VTEP or another `serving`."""
    before, after = (
        (obj.data_path_address, _is_lost(obj)) if isinstance(obj, Node) else None
        for obj in (event.before, event.after)
    )
    return before != after


def _has_another_mtu(event: Event) -> bool:
    mtus = [obj.underlay_mtu if isinstance(obj, Node) else 0 for obj in (event.before, event.after)]
    return mtus[0] != mtus[1]


def _smallest_mtu(state: ClusterState) -> int:
    """The smallest MTU that any host, down or not, has reported: it does not change with their
    health. 0: none has."""
    told = [node.underlay_mtu for node in state.nodes.values() if node.underlay_mtu]
    return max(min(told), MIN_UNDERLAY_MTU) if told else 0


def _view_now(
    state: ClusterState,
    network: Network,
    mtu: int,
    old: NetworkView | None,
    touched: _Touched | None,
) -> NetworkView:
    """The view now; the old object if nothing in it has changed. `mtu`: the hosts' smallest, if it
    is needed."""
    if old is None:
        old, touched = (
            NetworkView(_definition(network, mtu), {}, {}),
            _everything_on(state, network),
        )
    if touched is None:
        return old
    definition = _definition(network, mtu) if touched.definition else old.definition
    endpoints = _patched(
        old.endpoints, {id: _endpoint(state, network.id, id) for id in touched.endpoints}
    )
    services = _patched(
        old.services, {id: _service_record(state, network.id, id) for id in touched.services}
    )
    if definition == old.definition and endpoints is old.endpoints and services is old.services:
        return old
    return NetworkView(definition, endpoints, services)


def _everything_on(state: ClusterState, network: Network) -> _Touched:
    legs = map(load_balancer_id, state.nodes_attached(network.id))
    tasks = state.tasks_attached(network.id)
    services = state.services if network.spec.ingress else state.services_attached(network.id)
    return _Touched(
        endpoints={*tasks, *legs}, services={*services, *(task.service for task in tasks.values())}
    )


K = TypeVar("K")
V = TypeVar("V")


def _patched(table: dict[K, V], records: Mapping[K, V | None]) -> dict[K, V]:
    """The table with the records put in (None: removed); the same object if nothing changes."""
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


def _definition(network: Network, underlay_mtu: int) -> NetworkDefinition:
    spec = network.spec
    return NetworkDefinition(
        id=network.id,
        name=spec.name,
        segments=network.segments,
        mtu=spec.mtu,
        underlay_mtu=underlay_mtu,
        internal=spec.internal,
        ingress=spec.ingress,
        attachable=spec.attachable,
        encrypted=spec.encrypted,
        icv_bits=spec.icv_bits,
    )


def _endpoint(state: ClusterState, network: NetworkId, id: str) -> EndpointRecord | None:
    if id.startswith(_LOAD_BALANCER):
        return _node_endpoint(state, network, NodeId(id.removeprefix(_LOAD_BALANCER)))
    return _task_endpoint(state, network, TaskId(id))


def _task_endpoint(state: ClusterState, network: NetworkId, id: TaskId) -> EndpointRecord | None:
    """The task's endpoint, from when the task has a node and an address until it ends. It serves
    while the task does and its host answers."""
    task = state.tasks.get(id)
    if task is None or task.node is None or task.state.is_terminal:
        return None
    attachment = _attachment(task.attachments, network)
    node = state.nodes.get(task.node)
    if attachment is None or node is None or node.data_path_address is None:
        return None
    return EndpointRecord(
        id=task.id,
        network=network,
        address=attachment.address,
        node=node.id,
        vtep=node.data_path_address,
        task=task.id,
        name=task.name,
        service=task.service if task.attached is None else None,
        aliases=_aliases(task),
        serving=task.serves and not _is_lost(node),
        starting=task.is_starting and not _is_lost(node) and _names_starting(state, network),
        version=task.spec_version,
    )


def _names_starting(state: ClusterState, id: NetworkId) -> bool:
    network = state.networks.get(id)
    return network is not None and network.spec.names_starting


def _is_lost(node: Node) -> bool:
    """The node's host does not answer, but its tasks are not given up yet."""
    return node.status.state is NodeState.DISCONNECTED


def _node_endpoint(state: ClusterState, network: NetworkId, id: NodeId) -> EndpointRecord | None:
    node = state.nodes.get(id)
    attachment = _attachment(node.attachments, network) if node else None
    if node is None or attachment is None or node.data_path_address is None:
        return None
    return EndpointRecord(
        id=load_balancer_id(id),
        network=network,
        address=attachment.address,
        node=id,
        vtep=node.data_path_address,
    )


def _attachment(attachments: tuple[Attachment, ...], network: NetworkId) -> Attachment | None:
    return next((a for a in attachments if a.network == network), None)


def _aliases(task: Task) -> tuple[str, ...]:
    """The container's short id, once known, and the hostname, if it is not a template; of an
    attached container also those that its user gave."""
    if (attached := task.attached) is not None:
        names = (attached.container[:SHORT_ID], attached.hostname, *attached.aliases)
        return tuple(filter(None, names))
    container, hostname = task.status.container, task.spec.container.hostname
    short = (container.id[:SHORT_ID],) if container and container.id else ()
    return short + ((hostname,) if hostname and "{{" not in hostname else ())


def _networks_of_service(
    state: ClusterState, previous: Views, service: Service
) -> Iterator[NetworkId]:
    """The spec's networks, those where remaining tasks keep the service known, and ingress."""
    yield from (attachment.target for attachment in service.spec.task.networks)
    yield from (id for id, view in previous.items() if service.id in view.services)
    if state.ingress is not None:
        yield state.ingress.id


def _service_record(state: ClusterState, network: NetworkId, id: ServiceId) -> ServiceRecord | None:
    """On ingress the service's ports, elsewhere its address and names. Besides those of the present
    spec, the record has those of tasks that were started under an earlier spec, until these tasks
    are gone."""
    service = state.services.get(id)
    is_ingress = state.ingress is not None and network == state.ingress.id
    if service is None:
        return _record_of_removed(state, network, id) if is_ingress else None
    earlier = _earlier_tasks(state, id, network, service.spec_version)
    if is_ingress:
        ports = _mesh(service.endpoint.ports)
        by_version = {task.spec_version: task.ports for task, _ in earlier}
        former = {
            version: had for version, all_ in by_version.items() if (had := _mesh(all_)) != ports
        }
        record = ServiceRecord(
            id=id,
            network=network,
            name=service.name,
            ports=ports,
            affinity=service.spec.endpoint.affinity,
            former=former,
        )
        return record if ports or former else None
    wanted = next((a for a in service.spec.task.networks if a.target == network), None)
    if wanted is None and not earlier:
        return None
    address = next((a.address.ip for a in service.endpoint.addresses if a.network == network), None)
    aliases = wanted.aliases if wanted else ()
    kept = sorted(
        {alias for _, attachment in earlier for alias in attachment.aliases}.difference(aliases)
    )
    return ServiceRecord(
        id=id,
        network=network,
        name=service.name,
        virtual_address=address,
        aliases=(*aliases, *kept),
        affinity=service.spec.endpoint.affinity,
    )


def _record_of_removed(
    state: ClusterState, network: NetworkId, id: ServiceId
) -> ServiceRecord | None:
    """The ports of a removed service on ingress, as long as it has tasks: the mesh refuses new
    connections there and forwards the established ones, which the tasks may still end in good
    order. Names and the virtual address are gone with the service."""
    tasks = _earlier_tasks(state, id, network)
    former = {task.spec_version: had for task, _ in tasks if (had := _mesh(task.ports))}
    if not former:
        return None
    return ServiceRecord(id=id, network=network, name=tasks[0][0].service_name, former=former)


def _earlier_tasks(
    state: ClusterState, service: ServiceId, network: NetworkId, version_now: int | None = None
) -> list[tuple[Task, Attachment]]:
    """One unfinished task on the network for each version of the service but `version_now`. All of
    a version were started with the same ports and aliases, and there may be ten thousand."""
    found: dict[int, tuple[Task, Attachment]] = {}
    for task in state.tasks_of(service).values():
        version = task.spec_version
        if version == version_now or version in found or task.state.is_terminal:
            continue
        attachment = _attachment(task.attachments, network)
        if attachment is not None:
            found[version] = (task, attachment)
    return list(found.values())


def _mesh(ports: tuple[PublishedPort, ...]) -> tuple[PublishedPort, ...]:
    return tuple(p for p in ports if p.mode == "ingress" and p.published)
