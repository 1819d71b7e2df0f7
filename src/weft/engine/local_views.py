"""This node's own networks as the API shows them. Pure."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

from weft.engine.views import digest
from weft.model.bridge_network import BridgeNetwork, Ipv6Pool
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.local_sandbox import BridgeEndpoint, LocalSandbox

_DEFAULT_OPTIONS = {
    "com.docker.network.bridge.default_bridge": "true",
    "com.docker.network.bridge.enable_icc": "true",
    "com.docker.network.bridge.enable_ip_masquerade": "true",
    "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
    "com.docker.network.bridge.name": "docker0",
    "com.docker.network.driver.mtu": "1500",
}


def shown(network: BridgeNetwork, places: Sequence[LocalSandbox]) -> LocalNetwork:
    """`places`: the containers on the network."""
    spec, pool = network.spec, network.spec.pool
    return LocalNetwork(
        id=network.id,
        name=network.name,
        driver="bridge",
        created_at=network.created_at,
        pools=((network.subnet, str(network.gateway)),),
        ip_range=pool.ip_range if pool is not None else None,
        reserved=pool.reserved if pool is not None else {},
        ipv6_pool=_ipv6_pool(network),
        internal=spec.internal,
        attachable=spec.attachable,
        options=_DEFAULT_OPTIONS if network.is_default else spec.options,
        labels=spec.labels,
        endpoints=tuple(
            endpoint(network, place, each)
            for place in places
            for each in place.endpoints
            if each.network == network.id
        ),
    )


def _ipv6_pool(network: BridgeNetwork) -> Ipv6Pool | None:
    if network.ipv6_subnet is None:
        return None
    asked = network.spec.ipv6_pool or Ipv6Pool(network.ipv6_subnet)
    return Ipv6Pool(network.ipv6_subnet, network.ipv6_gateway, asked.ip_range, asked.reserved)


def endpoint(network: BridgeNetwork, place: LocalSandbox, own: BridgeEndpoint) -> LocalEndpoint:
    return LocalEndpoint(
        key=place.container,
        name=place.name,
        endpoint_id=endpoint_id(network, place),
        address=own.address,
        aliases=own.aliases,
        mac=own.mac,
        ipv6_address=own.ipv6_address,
    )


def endpoint_id(network: BridgeNetwork, place: LocalSandbox) -> str:
    return digest(network.id, place.container)


def interface(network: BridgeNetwork, address: IPv4Address) -> IPv4Interface:
    """The address with the network's mask."""
    return IPv4Interface((int(address), network.subnet.prefixlen))
