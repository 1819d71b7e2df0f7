"""This node's networks as the API shows them: the predefined ones, docker_gwbridge, and the
overlays that reach this node. Pure.

Ids of local networks and of endpoints are digests of what they name. So they are the same after a
restart, and an endpoint has the same id on every node that shows it."""

import hashlib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface

from weft.model.assignment import EndpointRecord, NetworkView, Overlays, ServiceRecord
from weft.model.container import Container
from weft.model.ids import ContainerId, NodeId
from weft.model.local_network import (
    LocalEndpoint,
    LocalNetwork,
    PeerView,
    ServiceTaskView,
    ServiceView,
)
from weft.model.meta import Nanoseconds
from weft.model.sandbox import GATEWAY_BRIDGE, NodeFacts
from weft.model.workload import Resident
from weft.network.sandbox import needs_gateway

INGRESS_KEY = "ingress-sbox"
PEER_NAME = 12
"""Digits of a peer's name."""

_GATEWAY_OPTIONS = {
    "com.docker.network.bridge.enable_icc": "false",
    "com.docker.network.bridge.enable_ip_masquerade": "true",
    "com.docker.network.bridge.name": GATEWAY_BRIDGE,
}

Containers = Mapping[ContainerId, Container]


def digest(*words: str) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def connected_networks(
    overlays: Overlays, residents: Sequence[Resident], facts: NodeFacts, containers: Containers
) -> list[LocalNetwork]:
    """The networks that connect containers, sorted by name."""
    here = [r for r in residents if r.sandbox.container in containers]
    networks = [gateway_network(overlays, here, facts)]
    networks += [overlay(view, here, facts, containers) for view in overlays.networks.values()]
    return sorted(networks, key=lambda n: n.name)


def container_networks(
    id: ContainerId,
    overlays: Overlays,
    residents: Sequence[Resident],
    facts: NodeFacts,
    containers: Containers,
) -> dict[str, tuple[LocalNetwork, LocalEndpoint]]:
    """A container's networks by name, in the order of the workload's attachments; without
    docker_gwbridge. Empty for a container without a sandbox."""
    workload = next((workload for sandbox, workload in residents if sandbox.container == id), None)
    found: dict[str, tuple[LocalNetwork, LocalEndpoint]] = {}
    for attachment in () if workload is None else workload.attachments:
        view = overlays.networks.get(attachment.network)
        if view is not None:
            network = overlay(view, residents, facts, containers)
            for endpoint in network.endpoints:
                if endpoint.key == id:
                    found[network.name] = (network, endpoint)
    return found


def container_gateway(
    id: ContainerId, overlays: Overlays, residents: Sequence[Resident], facts: NodeFacts
) -> LocalEndpoint | None:
    """The container's endpoint on docker_gwbridge; None if it has none."""
    network = gateway_network(overlays, [r for r in residents if r.sandbox.container == id], facts)
    return next((e for e in network.endpoints if e.key == id), None)


def predefined_networks(engine: str, created_at: Nanoseconds) -> list[LocalNetwork]:
    """The networks without addresses that every host has, sorted by name; `bridge` is among the
    node's own (`local_networks.py`). `created_at`: when the daemon began, as in Docker."""
    return [
        LocalNetwork(id=digest(engine, "host"), name="host", driver="host", created_at=created_at),
        LocalNetwork(id=digest(engine, "none"), name="none", driver="null", created_at=created_at),
    ]


def gateway_network(
    overlays: Overlays, residents: Sequence[Resident], facts: NodeFacts
) -> LocalNetwork:
    endpoints = [
        _gateway_endpoint(facts.node, s.container, f"gateway_{s.key}", s.gateway)
        for s, workload in residents
        if needs_gateway(workload, overlays.networks)
    ]
    if any(
        v.definition.ingress and v.load_balancer(facts.node) for v in overlays.networks.values()
    ):
        endpoints.append(
            _gateway_endpoint(
                facts.node, INGRESS_KEY, f"gateway_{INGRESS_KEY}", facts.ingress_gateway
            )
        )
    return LocalNetwork(
        id=digest(facts.node, GATEWAY_BRIDGE),
        name=GATEWAY_BRIDGE,
        driver="bridge",
        pools=((facts.gateway.network, str(facts.gateway.ip)),),
        options=_GATEWAY_OPTIONS,
        endpoints=tuple(endpoints),
    )


def overlay(
    view: NetworkView, residents: Sequence[Resident], facts: NodeFacts, containers: Containers
) -> LocalNetwork:
    definition = view.definition
    options = {
        "com.docker.network.driver.overlay.vxlanid_list": ",".join(
            str(s.vni) for s in definition.segments
        )
    }
    if definition.mtu is not None:
        options["com.docker.network.driver.mtu"] = str(definition.mtu)
    if definition.encrypted:
        options["encrypted"] = ""
    return LocalNetwork(
        id=definition.id,
        name=definition.name,
        driver="overlay",
        scope="swarm",
        internal=definition.internal,
        ingress=definition.ingress,
        attachable=definition.attachable,
        options=options,
        endpoints=tuple(_endpoints(view, residents, facts, containers)),
        pools=tuple((s.subnet, str(s.gateway)) for s in definition.segments),
        peers=peers(view),
        services=services(view),
    )


def peers(view: NetworkView) -> tuple[PeerView, ...]:
    """The nodes that have a part of the network, sorted by address."""
    found = {(e.vtep, e.node) for e in view.endpoints.values()}
    return tuple(PeerView(digest(node)[:PEER_NAME], str(vtep)) for vtep, node in sorted(found))


def services(view: NetworkView) -> tuple[ServiceView, ...]:
    return tuple(_service(view, record) for record in view.services.values())


def _service(view: NetworkView, record: ServiceRecord) -> ServiceView:
    tasks = tuple(
        ServiceTaskView(e.name, _endpoint_id(e), str(e.address.ip), str(e.vtep))
        for e in view.backends(record.id)
    )
    ports = tuple(f"Target: {p.target}, Publish: {p.published}" for p in record.ports)
    return ServiceView(record.name, str(record.virtual_address or ""), ports, tasks)


def _endpoints(
    view: NetworkView, residents: Sequence[Resident], facts: NodeFacts, containers: Containers
) -> list[LocalEndpoint]:
    found = []
    for sandbox, workload in residents:
        record = view.endpoints.get(workload.endpoint(view.definition.id))
        container = containers.get(sandbox.container)
        if record is not None and container is not None:
            found.append(_endpoint(record, sandbox.container, container.config.name))
    balancer = view.load_balancer(facts.node)
    if balancer is not None:
        name = view.definition.name
        found.append(
            _endpoint(
                balancer,
                INGRESS_KEY if view.definition.ingress else f"lb-{name}",
                f"{name}-endpoint",
            )
        )
    return found


def _endpoint(record: EndpointRecord, key: str, name: str) -> LocalEndpoint:
    return LocalEndpoint(
        key=key,
        name=name,
        endpoint_id=_endpoint_id(record),
        address=record.address,
        aliases=record.aliases,
    )


def _gateway_endpoint(node: NodeId, key: str, name: str, address: IPv4Interface) -> LocalEndpoint:
    return LocalEndpoint(
        key=key, name=name, endpoint_id=digest(node, GATEWAY_BRIDGE, key), address=address
    )


def _endpoint_id(record: EndpointRecord) -> str:
    return digest(record.network, record.id)
