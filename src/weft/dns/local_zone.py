"""The names that one of this node's own containers may ask for: those of the containers on its
networks, as far as users made these networks. On the network `bridge` containers do not know each
other, as in Docker.

A container is found by its name, its hostname, the beginning of its id and the aliases that it has
on that network. On networks of the swarm, it sees what the swarm's tasks see there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv6Address

from weft.dns.zone import Addresses, NetworkNames, Zone, ndots
from weft.model.addresses import AnyAddress
from weft.model.assignment import NetworkView
from weft.model.bridge_network import SHORT_ID, BridgeNetwork
from weft.model.ids import NetworkId
from weft.model.local_sandbox import LocalSandbox


def local_zone(
    place: LocalSandbox,
    networks: Mapping[NetworkId, BridgeNetwork],
    places: Iterable[LocalSandbox],
    overlays: Sequence[NetworkView] = (),
    names_of: Callable[[NetworkView], NetworkNames] = NetworkNames.of,
) -> Zone:
    """`places`: all containers on this node's networks. `overlays`: the container's networks of the
    swarm. `names_of`: see `zone_for`."""
    known = [networks[e.network] for e in place.endpoints if e.network in networks]
    outward = any(not network.spec.internal for network in known) or any(
        not view.definition.internal for view in overlays
    )
    others = tuple(places)
    names = (network_names(network, others) for network in known if not network.is_default)
    return Zone(
        networks=(*names, *map(names_of, overlays)),
        forwards=outward or bool(place.dns_servers),
        ndots=ndots(place.dns_options),
    )


def network_names(network: BridgeNetwork, places: Iterable[LocalSandbox]) -> NetworkNames:
    addresses: dict[str, Addresses] = {}
    six: dict[str, tuple[IPv6Address, ...]] = {}
    pointers: dict[AnyAddress, str] = {}
    for place in places:
        for endpoint in place.endpoints:
            if endpoint.network != network.id:
                continue
            own = (place.name, place.hostname, place.container[:SHORT_ID], *endpoint.aliases)
            found = endpoint.ipv6_address
            for name in {name.lower() for name in own} - {""}:
                addresses[name] = (*addresses.get(name, ()), endpoint.address.ip)
                if found is not None:
                    six[name] = (*six.get(name, ()), found.ip)
            pointers[endpoint.address.ip] = place.name
            if found is not None:
                pointers[found.ip] = place.name
    return NetworkNames(
        network=network.name.lower(),
        internal=network.spec.internal,
        addresses=addresses,
        pointers=pointers,
        ipv6_addresses=six,
    )
