"""The assignment of one node: all that it must run and may know. `control` makes it, `network` uses
it.

The manager computes an assignment from its store (`control/assignments/`), sends the first one
whole, then differences. The agent keeps the last assignment on disk, so that a node without a
manager still knows its networks. A node is told about a network only while one of its tasks is on
it. It always knows the ingress network, because every node answers for the published ports.
"""

from collections.abc import Mapping
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import msgspec

from weft.model import codec
from weft.model.addresses import MacAddress, Port, mac_for
from weft.model.attached import AttachedContainer
from weft.model.cluster import VXLAN_PORT
from weft.model.encryption import DataKey, IcvBits
from weft.model.generic import GenericResource
from weft.model.ids import ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId
from weft.model.network import Segment
from weft.model.registry import PullAuth
from weft.model.secret import Payload
from weft.model.service import Affinity, PublishedPort, TaskSpec
from weft.model.task import Attachment, Task, TaskState


class TaskAssignment(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """A task without its status, which the agent reports."""

    id: TaskId
    service: ServiceId
    service_name: str
    service_labels: dict[str, str] = msgspec.field(default_factory=dict)
    slot: int = 0
    node: NodeId
    spec: TaskSpec
    ports: tuple[PublishedPort, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    desired: TaskState = TaskState.RUNNING
    private_registry: str = ""
    """The registry whose credentials the node needs to pull the image; empty if it needs none."""
    generic: tuple[GenericResource, ...] = ()
    attached: AttachedContainer | None = None
    """See `Task.attached`."""

    @classmethod
    def of(cls, task: Task, node: NodeId, private_registry: str = "") -> "TaskAssignment":
        """An ended task has no addresses any more and does not run again, whatever its desired
        state."""
        is_over = task.state.is_terminal
        return cls(
            id=task.id,
            service=task.service,
            service_name=task.service_name,
            service_labels=task.service_labels,
            slot=task.number,
            node=node,
            spec=task.spec,
            ports=task.ports,
            attachments=() if is_over else task.attachments,
            desired=max(task.desired, TaskState.SHUTDOWN) if is_over else task.desired,
            private_registry=private_registry,
            generic=task.generic,
            attached=task.attached,
        )

    @property
    def name(self) -> str:
        return f"{self.service_name}.{self.slot or self.node}.{self.id}"


class NetworkDefinition(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: NetworkId
    name: str
    segments: tuple[Segment, ...]
    mtu: int | None = None
    """The MTU that the user asked for; None: derived from the underlay."""
    underlay_mtu: int = 0
    """The smallest underlay MTU of all hosts, so that they agree; 0: unknown."""
    internal: bool = False
    ingress: bool = False
    attachable: bool = False
    encrypted: bool = False
    icv_bits: IcvBits = 64


class EndpointRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """One address on one network and the host behind it. The address is a task's, or that of a
    node's load balancer (`task` is None)."""

    id: str
    """The task's id, or `lb-<node id>`."""
    network: NetworkId
    address: IPv4Interface
    node: NodeId
    vtep: IPv4Address
    task: TaskId | None = None
    name: str = ""
    """The task's name."""
    service: ServiceId | None = None
    aliases: tuple[str, ...] = ()
    """Further names of this task: its container's short id and its hostname."""
    serving: bool = False
    """Whether the task runs and is meant to: then the endpoint gets new connections. Otherwise it
    keeps established ones."""
    starting: bool = False
    """Whether the task has been started, is not healthy yet and may be found by name all the same;
    only on a network that asks for that."""
    version: int = 0
    """`Task.spec_version`: the version of the service's spec with which the task was started. See
    `ServiceRecord.former`."""

    @property
    def mac(self) -> MacAddress:
        return mac_for(self.address.ip)


class ServiceRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """A service as seen on one network. Its backends are the network's serving endpoints whose
    `service` is its id."""

    id: ServiceId
    network: NetworkId
    name: str
    virtual_address: IPv4Address | None = None
    """None: `dnsrr`, the name resolves to the tasks' addresses."""
    aliases: tuple[str, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    """Ports published in the routing mesh; only on the ingress network."""
    affinity: Affinity = ""
    former: dict[int, tuple[PublishedPort, ...]] = {}
    """Ports of tasks that were started with other ports, by the task's version. They are stored
    once per version, not per task: a service may have ten thousand ports."""


class NetworkView(msgspec.Struct, frozen=True, dict=True):
    """All that a node on the network knows of the network; the same value for every node."""

    definition: NetworkDefinition
    endpoints: dict[str, EndpointRecord]
    services: dict[ServiceId, ServiceRecord]

    def backends(self, service: ServiceId) -> list[EndpointRecord]:
        """Serving endpoints of a service, by address."""
        found = (e for e in self.endpoints.values() if e.service == service and e.serving)
        return sorted(found, key=lambda e: e.address)

    def load_balancer(self, node: NodeId) -> EndpointRecord | None:
        """The endpoint of the node's load balancer; None until the manager has an address for
        it."""
        return self.endpoints.get(load_balancer_id(node))

    @cached_property
    def compressed(self) -> bytes:
        """The encoding for nodes that did not know the network, computed once. Names and ids
        repeat, so compression saves most of the size."""
        return codec.compressed(self)


class CompressedView(codec.Compressed):
    type = NetworkView

    @property
    def data(self) -> bytes:
        view: NetworkView = self.value
        return view.compressed


def load_balancer_id(node: NodeId) -> str:
    return f"lb-{node}"


class AssignmentChange(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, dict=True):
    """The difference from one assignment to the next; with `full`, from the empty one."""

    revision: int
    full: bool = False
    data_path_port: Port = VXLAN_PORT
    keys: tuple[DataKey, ...] | None = None
    """None: unchanged."""
    tasks: tuple[TaskAssignment, ...] = ()
    removed_tasks: tuple[TaskId, ...] = ()
    views: tuple[CompressedView, ...] = ()
    """Networks that the node did not know. The fields below are about networks that it did know."""
    networks: tuple[NetworkDefinition, ...] = ()
    removed_networks: tuple[NetworkId, ...] = ()
    endpoints: tuple[EndpointRecord, ...] = ()
    removed_endpoints: tuple[tuple[NetworkId, str], ...] = ()
    services: tuple[ServiceRecord, ...] = ()
    removed_services: tuple[tuple[NetworkId, ServiceId], ...] = ()
    secrets: tuple[Payload, ...] = ()
    """Only those that the node's own tasks need, like the configs."""
    removed_secrets: tuple[SecretId, ...] = ()
    configs: tuple[Payload, ...] = ()
    removed_configs: tuple[ConfigId, ...] = ()
    registry_auths: tuple[PullAuth, ...] = ()
    removed_registry_auths: tuple[ServiceId, ...] = ()

    @property
    def is_empty(self) -> bool:
        return (
            not self.full
            and self.keys is None
            and not any(
                (
                    self.tasks,
                    self.removed_tasks,
                    self.views,
                    self.networks,
                    self.removed_networks,
                    self.endpoints,
                    self.removed_endpoints,
                    self.services,
                    self.removed_services,
                    self.secrets,
                    self.removed_secrets,
                    self.configs,
                    self.removed_configs,
                    self.registry_auths,
                    self.removed_registry_auths,
                )
            )
        )

    @cached_property
    def encoded(self) -> msgspec.Raw:
        """The encoding on the wire, for every node with the same change."""
        return msgspec.Raw(codec.encode(self))


class Overlays(msgspec.Struct, frozen=True, kw_only=True):
    """The node's knowledge of the networks that it shares with other nodes. The defaults are those
    of a node without a swarm."""

    data_path_port: Port = VXLAN_PORT
    keys: tuple[DataKey, ...] = ()
    """Keys of encrypted networks, oldest first; none unless a task of this node is on such a
    network."""
    networks: dict[NetworkId, NetworkView] = msgspec.field(default_factory=dict)


class Assignment(Overlays, frozen=True, kw_only=True):
    node: NodeId
    revision: int = 0
    """Revision of the manager's store from which this was computed."""
    tasks: dict[TaskId, TaskAssignment] = msgspec.field(default_factory=dict)
    secrets: dict[SecretId, Payload] = msgspec.field(default_factory=dict)
    """The data of the secrets that the tasks refer to. Never on a node's disk, and in no log."""
    configs: dict[ConfigId, Payload] = msgspec.field(default_factory=dict)
    registry_auths: dict[ServiceId, PullAuth] = msgspec.field(default_factory=dict)
    """Credentials of the tasks' services for the registries of their images. Kept as secrets
    are."""

    def after(self, change: AssignmentChange) -> "Assignment":
        """The next assignment; this one does not change."""
        tasks = {} if change.full else without(self.tasks, change.removed_tasks)
        tasks |= {task.id: task for task in change.tasks}
        views = {} if change.full else without(self.networks, change.removed_networks)
        views |= {new.value.definition.id: new.value for new in change.views}
        for definition in change.networks:
            old = views.get(definition.id)
            views[definition.id] = NetworkView(
                definition, old.endpoints if old else {}, old.services if old else {}
            )
        for network in changed_networks(change) & views.keys():
            views[network] = _view_after(views[network], change)
        secrets = {} if change.full else without(self.secrets, change.removed_secrets)
        secrets |= {SecretId(payload.id): payload for payload in change.secrets}
        configs = {} if change.full else without(self.configs, change.removed_configs)
        configs |= {ConfigId(payload.id): payload for payload in change.configs}
        auths = {} if change.full else without(self.registry_auths, change.removed_registry_auths)
        auths |= {auth.service: auth for auth in change.registry_auths}
        keys = change.keys if change.keys is not None else () if change.full else self.keys
        return Assignment(
            node=self.node,
            revision=change.revision,
            data_path_port=change.data_path_port,
            keys=keys,
            tasks=tasks,
            networks=views,
            secrets=secrets,
            configs=configs,
            registry_auths=auths,
        )


def changed_networks(change: AssignmentChange) -> set[NetworkId]:
    """The networks whose endpoints or services the change affects."""
    put = {e.network for e in change.endpoints} | {s.network for s in change.services}
    return put | {network for network, _ in (*change.removed_endpoints, *change.removed_services)}


def without(table: Mapping[Any, Any], keys: tuple[Any, ...]) -> dict[Any, Any]:
    """A copy of the table without the keys."""
    copy = dict(table)
    for key in keys:
        copy.pop(key, None)
    return copy


def _view_after(view: NetworkView, change: AssignmentChange) -> NetworkView:
    network = view.definition.id
    endpoints = without(
        view.endpoints, tuple(id for n, id in change.removed_endpoints if n == network)
    )
    endpoints |= {e.id: e for e in change.endpoints if e.network == network}
    services = without(
        view.services, tuple(id for n, id in change.removed_services if n == network)
    )
    services |= {s.id: s for s in change.services if s.network == network}
    return NetworkView(view.definition, endpoints, services)
