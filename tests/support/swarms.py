"""A small swarm by hand: networks, services and tasks, and what each node is told of them.

For tests of ring 2 and of the data path that do not want a manager. Addresses are handed out in
order; ids are the names, padded. Everything is a value again once asked for: `assignment(node)`,
`facts(node)`, `residents(node)`.
"""

import hashlib
import itertools
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import msgspec

from weft.agent.workloads import Workloads
from weft.model.addresses import PortKey
from weft.model.assignment import (
    Assignment,
    EndpointRecord,
    NetworkDefinition,
    NetworkView,
    ServiceRecord,
    TaskAssignment,
    load_balancer_id,
)
from weft.model.attached import AttachmentWanted
from weft.model.cluster import VXLAN_PORT
from weft.model.ids import ContainerId, NetworkId, NodeId, ServiceId, TaskId, WorkloadId
from weft.model.network import Segment
from weft.model.sandbox import NodeFacts, Sandbox
from weft.model.service import Affinity, ContainerSpec, PublishedPort, TaskSpec
from weft.model.task import Attachment, TaskState
from weft.model.workload import Resident

UNDERLAY = IPv4Address("10.59.72.10")


def padded(name: str) -> str:
    """An id of 25 characters that begins with the name; no two names give the same."""
    return f"{name + 'x' if name.endswith('0') else name:0<25}"


class Swarm:
    """`nodes` hosts, `node1` and so on, and the ingress network 10.0.0.0/24."""

    def __init__(
        self, nodes: int = 3, underlay_mtu: int = 1500, data_path_port: int = VXLAN_PORT
    ) -> None:
        self.nodes = [NodeId(padded(f"node{i}")) for i in range(1, nodes + 1)]
        self.underlay_mtu = underlay_mtu
        self.data_path_port = data_path_port
        self.own_ports: frozenset[PortKey] = frozenset()
        """What the daemon of each host listens on."""
        self.definitions: dict[NetworkId, NetworkDefinition] = {}
        self.endpoints: dict[NetworkId, dict[str, EndpointRecord]] = {}
        self.services: dict[NetworkId, dict[ServiceId, ServiceRecord]] = {}
        self.tasks: dict[TaskId, TaskAssignment] = {}
        self._sandboxes: dict[TaskId, Sandbox] = {}
        self._used: dict[NetworkId, int] = {}
        self._slots: dict[ServiceId, int] = {}
        """The highest slot that a task of the service ever had. Ids are made of the slot, and no
        task gets that of a task before it, which may have had other networks."""
        self.closed: set[TaskId] = set()
        """Tasks whose stop signal comes next."""
        self._workloads = Workloads(self.closed)
        self.ingress = self.network("ingress", "10.0.0.0/24", ingress=True)

    def network(
        self,
        name: str,
        *subnets: str,
        ingress: bool = False,
        internal: bool = False,
        mtu: int | None = None,
        encrypted: bool = False,
    ) -> NetworkId:
        """A network, and a load balancer on it for every node."""
        id = NetworkId(padded(name))
        first = 4096 + sum(len(d.segments) for d in self.definitions.values())
        pools = [IPv4Network(subnet) for subnet in subnets]
        segments = tuple(Segment(pool, pool[1], first + i) for i, pool in enumerate(pools))
        self.definitions[id] = NetworkDefinition(
            id=id,
            name=name,
            segments=segments,
            mtu=mtu,
            internal=internal,
            ingress=ingress,
            encrypted=encrypted,
        )
        self.endpoints[id], self.services[id] = {}, {}
        for node in self.nodes:
            record = load_balancer_id(node)
            self.endpoints[id][record] = EndpointRecord(
                id=record, network=id, address=self.address(id), node=node, vtep=self.vtep(node)
            )
        return id

    def service(
        self,
        name: str,
        *networks: NetworkId,
        ports: Sequence[PublishedPort] = (),
        on: Sequence[int] = (),
        virtual: bool = True,
        affinity: Affinity = "",
    ) -> list[TaskId]:
        """A service with one task on each of the nodes `on` (from 1); gives their ids."""
        id = ServiceId(padded(name))
        mesh = any(port.mode == "ingress" for port in ports)
        attached = ([self.ingress] if mesh else []) + list(networks)
        for network in attached:
            address = self.address(network).ip if virtual or network == self.ingress else None
            shown = (
                tuple(p for p in ports if p.mode == "ingress") if network == self.ingress else ()
            )
            self.services[network][id] = ServiceRecord(
                id=id,
                network=network,
                name=name,
                virtual_address=address,
                ports=shown,
                affinity=affinity,
            )
        return [
            self._task(name, id, slot, self.nodes[node - 1], attached, ports)
            for slot, node in enumerate(on, 1)
        ]

    def publish_anew(
        self, name: str, ports: Sequence[PublishedPort], on: Sequence[int] = ()
    ) -> list[TaskId]:
        """The service publishes these ports from now on, and one task more on each of the nodes
        `on` does; its other tasks keep what they have."""
        id = ServiceId(padded(name))
        record = self.services[self.ingress][id]
        versions = {
            self.tasks[TaskId(e.id)].ports: e.version
            for e in self.endpoints[self.ingress].values()
            if e.service == id
        }
        version = max(versions.values(), default=0) + 1
        former = {number: known for known, number in versions.items() if known != tuple(ports)}
        self.services[self.ingress][id] = msgspec.structs.replace(
            record, ports=tuple(ports), former=former
        )
        slots = itertools.count(1 + self._slots.get(id, 0))
        tasks = [
            self._task(name, id, next(slots), self.nodes[node - 1], [self.ingress], ports)
            for node in on
        ]
        for task in tasks:
            endpoints = self.endpoints[self.ingress]
            endpoints[task] = msgspec.structs.replace(endpoints[task], version=version)
        return tasks

    def set_serving(self, task: TaskId, serving: bool) -> None:
        for endpoints in self.endpoints.values():
            if task in endpoints:
                endpoints[task] = msgspec.structs.replace(endpoints[task], serving=serving)

    def remove(self, task: TaskId) -> None:
        for endpoints in self.endpoints.values():
            endpoints.pop(task, None)
        self.tasks.pop(task)
        self._sandboxes.pop(task)

    def attach(self, id: TaskId, network: NetworkId, wanted: AttachmentWanted) -> IPv4Interface:
        """A place of a container of the first node, or other names for one that it has."""
        node, known = self.nodes[0], self.tasks.get(id)
        address = known.attachments[0].address if known else self.address(network)
        self.tasks[id] = TaskAssignment(
            id=id,
            service=ServiceId(""),
            service_name="",
            node=node,
            spec=TaskSpec(container=ContainerSpec(image="")),
            attachments=(Attachment(network, address),),
            attached=wanted.container,
        )
        self.endpoints[network][id] = EndpointRecord(
            id=id,
            network=network,
            address=address,
            node=node,
            vtep=self.vtep(node),
            task=id,
            name=wanted.container.name,
            aliases=wanted.container.aliases,
        )
        return address

    def detach(self, id: TaskId) -> None:
        for endpoints in self.endpoints.values():
            endpoints.pop(id, None)
        self.tasks.pop(id)

    # --- what a node is told

    def assignment(self, node: int) -> Assignment:
        id = self.nodes[node - 1]
        tasks = {t.id: t for t in self.tasks.values() if t.node == id}
        known = {self.ingress} | {a.network for t in tasks.values() for a in t.attachments}
        views = {
            n: NetworkView(self.definitions[n], dict(self.endpoints[n]), dict(self.services[n]))
            for n in sorted(known)
        }
        return Assignment(node=id, data_path_port=self.data_path_port, tasks=tasks, networks=views)

    def facts(self, node: int) -> NodeFacts:
        id = self.nodes[node - 1]
        return NodeFacts(
            node=id,
            data_path_address=self.vtep(id),
            underlay_mtu=self.underlay_mtu,
            own_ports=self.own_ports,
        )

    def sandboxes(self, node: int) -> list[Sandbox]:
        return [
            self._sandboxes[t.id] for t in self.tasks.values() if t.node == self.nodes[node - 1]
        ]

    def residents(self, node: int) -> list[Resident]:
        return self._workloads.residents(self.tasks, self.sandboxes(node))

    def sandbox(self, task: TaskId) -> Sandbox:
        return self._sandboxes[task]

    # --- numbers

    def vtep(self, node: NodeId) -> IPv4Address:
        return UNDERLAY + self.nodes.index(node) + 1

    def address(self, network: NetworkId, segment: int = 0) -> IPv4Interface:
        """The next address of the network's segment, from .2 on."""
        subnet = self.definitions[network].segments[segment].subnet
        self._used[network] = self._used.get(network, 1) + 1
        return IPv4Interface(f"{subnet[self._used[network]]}/{subnet.prefixlen}")

    def _task(
        self,
        name: str,
        service: ServiceId,
        slot: int,
        node: NodeId,
        networks: Sequence[NetworkId],
        ports: Sequence[PublishedPort],
    ) -> TaskId:
        self._slots[service] = max(slot, self._slots.get(service, 0))
        id = TaskId(padded(f"{name}{slot}"))
        attachments = []
        for network in networks:
            segment = slot % len(self.definitions[network].segments)
            attachments.append(Attachment(network, self.address(network, segment)))
        spec = TaskSpec(container=ContainerSpec(image="demo"))
        task = TaskAssignment(
            id=id,
            service=service,
            service_name=name,
            slot=slot,
            node=node,
            spec=spec,
            ports=tuple(ports),
            attachments=tuple(attachments),
            desired=TaskState.RUNNING,
        )
        self.tasks[id] = task
        for attachment in attachments:
            self.endpoints[attachment.network][id] = EndpointRecord(
                id=id,
                network=attachment.network,
                address=attachment.address,
                node=node,
                vtep=self.vtep(node),
                task=id,
                name=task.name,
                service=service,
                serving=True,
            )
        self._sandboxes[id] = self._make_sandbox(task)
        return id

    def _make_sandbox(self, task: TaskAssignment) -> Sandbox:
        neighbours = [s for t, s in self._sandboxes.items() if self.tasks[t].node == task.node]
        taken = {s.gateway.ip for s in neighbours}
        gateway = next(
            a for i in range(3, 250) if (a := IPv4Address("172.18.0.0") + i) not in taken
        )
        ports = {}
        for attachment in task.attachments:
            used = {s.ports.get(attachment.network) for s in neighbours}
            ports[attachment.network] = next(n for n in range(1, 1000) if n not in used)
        id = hashlib.sha256(task.id.encode()).hexdigest()
        return Sandbox(
            id=id,
            workload=WorkloadId(task.id),
            container=ContainerId(id),
            gateway=IPv4Interface(f"{gateway}/16"),
            ports=ports,
        )
