"""Who has which address, as far as one node knows: from its overlays, its own containers and its own
networks. Also which of the connections that a namespace tracks are worth telling."""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.model.assignment import EndpointRecord, NetworkView, Overlays
from weft.model.flows import Party, Sides, Tracked
from weft.model.local_network import LocalNetwork
from weft.model.sandbox import NodeFacts
from weft.model.workload import TASK_LABEL, Resident, place_of, service_of
from weft.network.kernel_state import HOST

Parties = Mapping[IPv4Address, Party]


class FlowPlace(NamedTuple):
    """A namespace that tracks connections."""

    namespace: str
    name: str
    """Of the container; `host` for the host."""


def places(residents: Iterable[Resident], containers: Mapping[str, str]) -> list[FlowPlace]:
    """`containers`: namespaces of this node's own containers, with their names. The namespaces of
    load balancers are left out: only Weft's own probes begin or end there."""
    found = {sandbox.key: workload.place for sandbox, workload in residents}
    found |= containers
    return [FlowPlace(HOST, HOST), *(FlowPlace(*each) for each in found.items())]


def parties(
    overlays: Overlays,
    facts: NodeFacts,
    residents: Iterable[Resident],
    networks: Iterable[LocalNetwork],
) -> dict[IPv4Address, Party]:
    """`networks`: this node's own."""
    found: dict[IPv4Address, Party] = {}
    for address in (facts.gateway.ip, facts.ingress_gateway.ip):
        found[address] = Party(str(address), "node", facts.node, is_local=True)
    for network in networks:
        found.update(_of_local(network, facts))
    for sandbox, workload in residents:
        found[sandbox.gateway.ip] = Party(
            str(sandbox.gateway.ip),
            "task" if TASK_LABEL in workload.labels else "container",
            workload.place,
            workload.service,
            is_local=True,
        )
    for view in overlays.networks.values():
        found.update(_of_view(view))
    found[facts.data_path_address] = Party(str(facts.data_path_address), "node", facts.node)
    return found


def party(known: Parties, address: IPv4Address, node: str) -> Party:
    """`node`: the id of the node that asks."""
    found = known.get(address)
    if found is not None:
        return found
    if address.is_loopback:
        return Party(str(address), "node", node, is_local=True)
    return Party(str(address), "outside", str(address))


def is_told(place: FlowPlace, tracked: Tracked, known: Parties) -> bool:
    """Whether a connection belongs to who talks to whom. Inside a container, its own loopback does
    not (names are asked for there); on the host, only what begins or ends in a container does."""
    addresses = _addresses(tracked.asked, tracked.carried)
    if place.namespace != HOST:
        return not any(address.is_loopback for address in addresses)
    found = (known.get(address) for address in addresses)
    return any(each is not None and each.kind != "node" for each in found)


def _addresses(*sides: Sides) -> Iterator[IPv4Address]:
    for each in sides:
        yield each.source
        yield each.target


def _of_view(view: NetworkView) -> Iterator[tuple[IPv4Address, Party]]:
    for endpoint in view.endpoints.values():
        yield endpoint.address.ip, _of_endpoint(endpoint)
        yield endpoint.vtep, Party(str(endpoint.vtep), "node", endpoint.node)
    for service in view.services.values():
        virtual = service.virtual_address
        if virtual is not None:
            yield virtual, Party(str(virtual), "service", service.name, service.name)


def _of_endpoint(endpoint: EndpointRecord) -> Party:
    address = str(endpoint.address.ip)
    if endpoint.task is None:
        return Party(address, "node", endpoint.node)
    if endpoint.service is None:
        return Party(address, "container", endpoint.name)
    name = place_of(endpoint.name, endpoint.task)
    return Party(address, "task", name, service_of(name))


def _of_local(network: LocalNetwork, facts: NodeFacts) -> Iterator[tuple[IPv4Address, Party]]:
    for _, gateway in network.pools:
        if gateway:
            address = IPv4Address(gateway)
            yield address, Party(gateway, "node", facts.node, is_local=True)
    for endpoint in network.endpoints:
        address = endpoint.address.ip
        yield address, Party(str(address), "container", endpoint.name, is_local=True)
