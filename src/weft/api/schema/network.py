"""Networks: the request that creates one, and the JSON of a network of the swarm (`network_json`)
or of this node (`local_network_json`).

The spec keeps the text of the driver's options; this file alone parses their meaning (VNIs, MTU,
encryption). This file refuses only what cannot be read or has no place in the model;
`control.validate` decides whether a spec makes sense.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from msgspec import Meta, field

from weft.api.schema.common import FEW, Json, Wire, omit_empty, parse_address, rfc3339
from weft.control.requests.validation import MAX_POOLS
from weft.errors import Forbidden, InvalidArgument, Unsupported, clip
from weft.model.addresses import LAST_VNI, Address, mac_for
from weft.model.bridge_network import Ipv6Pool
from weft.model.encryption import IcvBits
from weft.model.local_network import LocalEndpoint, LocalNetwork, ServiceView
from weft.model.network import Network, NetworkSpec, Pool
from weft.model.numbers import decimal

VNIS = "com.docker.network.driver.overlay.vxlanid_list"
MTU = "com.docker.network.driver.mtu"
ENCRYPTED = "encrypted"
NO = ("false", "0", "no", "off", "f", "n")
"""Docker checks only whether the option is present (libnetwork drivers/overlay/ov_network.go). A
user who writes one of these values means the opposite; any other value counts as in Docker."""
ICV = "com.weft.network.esp.icv"
"""Bits of the integrity check value of each encrypted packet. Only Weft has this option; Docker
always uses 64."""
NAMES_STARTING = "com.weft.network.names.starting"
"""Whether `tasks.<service>` also gives the addresses of tasks that have been started and are not
healthy yet. Only Weft has this option: programs that form a cluster before they are healthy find
each other by it."""
BOOLEANS: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False}
ICV_BITS: Mapping[str, IcvBits] = {"64": 64, "128": 128}
MIN_MTU, MAX_MTU = 576, 65535 - 50


class PoolWire(Wire, frozen=True):
    subnet: str = ""
    ip_range: str = field(name="IPRange", default="")
    gateway: str = ""
    auxiliary: Annotated[dict[str, str], FEW] = field(
        name="AuxiliaryAddresses", default_factory=dict
    )


class IpamWire(Wire, frozen=True):
    driver: str = ""
    options: dict[str, str] = field(default_factory=dict)
    config: Annotated[tuple[PoolWire, ...], Meta(max_length=MAX_POOLS)] = ()


class ConfigFromWire(Wire, frozen=True):
    network: str = ""


class NetworkWire(Wire, frozen=True):
    name: str = ""
    check_duplicate: bool = False
    """Deprecated: the check is always on."""
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool = field(name="EnableIPv4", default=True)
    enable_ipv6: bool = field(name="EnableIPv6", default=False)
    ipam: IpamWire = field(name="IPAM", default=IpamWire())
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigFromWire = ConfigFromWire()
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


# --- JSON -> model


def spec_from(wire: NetworkWire) -> NetworkSpec:
    """Raises `InvalidArgument`, `Forbidden` or `Unsupported`. The error names the network, the
    field and the value."""
    _refuse_unsupported(wire)
    return NetworkSpec(
        name=wire.name,
        labels=wire.labels,
        driver="overlay",
        options=wire.options,
        pools=tuple(
            pool_from(pool, f"IPAM.Config[{index}]") for index, pool in enumerate(wire.ipam.config)
        ),
        vnis=_vnis(wire),
        mtu=mtu_from(wire.options),
        internal=wire.internal,
        attachable=wire.attachable,
        ingress=wire.ingress,
        encrypted=ENCRYPTED in wire.options,
        icv_bits=ICV_BITS[wire.options.get(ICV, "64")],
        names_starting=BOOLEANS[wire.options.get(NAMES_STARTING, "false").lower()],
    )


def refuse_parts_of_other_networks(wire: NetworkWire) -> None:
    """Raises `Unsupported` for what no network of Weft's has."""
    unsupported = {
        "a configuration-only network (ConfigOnly)": wire.config_only,
        f"the configuration of another network (ConfigFrom: {wire.config_from.network})": bool(
            wire.config_from.network
        ),
        f"IPAM driver {wire.ipam.driver}": wire.ipam.driver not in ("", "default"),
        f"IPAM options ({', '.join(wire.ipam.options)})": bool(wire.ipam.options),
    }
    for what, asked in unsupported.items():
        if asked:
            raise Unsupported(f"cannot create network {wire.name}: {what} is not supported by Weft")


def _refuse_unsupported(wire: NetworkWire) -> None:
    """Checks Docker's own refusals first, then what Weft does not support."""
    if wire.scope == "local":
        raise Forbidden("cannot downgrade network scope for overlay networks")
    if not wire.enable_ipv4:
        raise InvalidArgument("IPv4 cannot be disabled in a Swarm scoped network")
    if wire.enable_ipv6:
        raise Unsupported(
            f"cannot create network {wire.name}: IPv6 (EnableIPv6) is not supported by Weft on"
            " networks of the swarm"
        )
    refuse_parts_of_other_networks(wire)
    if wire.scope not in ("", "swarm"):
        raise Unsupported(
            f"cannot create network {wire.name}: scope {wire.scope} is not supported by Weft"
        )
    for option in wire.options:
        if option not in (VNIS, MTU, ENCRYPTED, ICV, NAMES_STARTING):
            raise Unsupported(
                f"cannot create network {wire.name}: option {option} is not supported by Weft"
            )
    _check_encryption(wire)
    names = wire.options.get(NAMES_STARTING)
    if names is not None and names.lower() not in BOOLEANS:
        raise InvalidArgument(
            f"cannot create network {wire.name}: option {NAMES_STARTING}: {clip(names)!r} is neither"
            " true nor false"
        )
    if names is not None and wire.ingress:
        raise InvalidArgument(
            f"cannot create network {wire.name}: option {NAMES_STARTING}: an ingress network has no"
            " names"
        )


def _check_encryption(wire: NetworkWire) -> None:
    encrypted, icv = wire.options.get(ENCRYPTED), wire.options.get(ICV)
    if encrypted is not None and encrypted.lower() in NO:
        raise InvalidArgument(
            f"cannot create network {wire.name}: option {ENCRYPTED}: {encrypted!r} would encrypt it"
            " all the same, since the option counts whatever its value is: leave it out"
        )
    if wire.ingress and encrypted is not None:
        raise Unsupported(
            f"cannot create network {wire.name}: an encrypted ingress network is not supported by"
            " Weft"
        )
    if icv is not None and encrypted is None:
        raise InvalidArgument(
            f"cannot create network {wire.name}: option {ICV} needs option {ENCRYPTED}"
        )
    if icv is not None and icv not in ICV_BITS:
        raise InvalidArgument(
            f"cannot create network {wire.name}: option {ICV}: {icv!r} is neither 64 nor 128"
        )


def pool_from(wire: PoolWire, path: str) -> Pool:
    if not wire.subnet:
        raise InvalidArgument(f"invalid {path}.Subnet: every IPAM configuration needs a subnet")
    if ":" in wire.subnet:
        raise Unsupported(f"{path}.Subnet: IPv6 subnet {wire.subnet} is not supported by Weft")
    subnet = parse_address(wire.subnet, IPv4Network, f"{path}.Subnet")
    if "/" not in wire.subnet:
        raise InvalidArgument(f"invalid {path}.Subnet: {wire.subnet}: it has no prefix")
    ip_range = (
        parse_address(wire.ip_range, IPv4Network, f"{path}.IPRange") if wire.ip_range else None
    )
    gateway = _address(wire.gateway, f"{path}.Gateway") if wire.gateway else None
    reserved = {
        name: _address(text, f"{path}.AuxiliaryAddresses.{name}")
        for name, text in wire.auxiliary.items()
    }
    return Pool(subnet, gateway, ip_range, reserved)


def _address(text: str, field: str) -> IPv4Address:
    """Clients may append a prefix length, which is ignored."""
    return parse_address(text.partition("/")[0], IPv4Address, field)


def _vnis(wire: NetworkWire) -> tuple[int, ...]:
    text = wire.options.get(VNIS)
    if text is None:
        return ()
    vnis = [decimal(number.strip(), LAST_VNI) for number in text.split(",")]
    if None in vnis:
        raise InvalidArgument(
            f"invalid option {VNIS}: {clip(text)!r} is not a list of numbers up to {LAST_VNI}"
        )
    return tuple(vni for vni in vnis if vni is not None)


def mtu_from(options: dict[str, str]) -> int | None:
    text = options.get(MTU)
    if text is None:
        return None
    mtu = decimal(text)
    if mtu is None:
        raise InvalidArgument(f"failed to parse {clip(text)!r} as MTU: not a number")
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise InvalidArgument(f"invalid MTU value: {mtu}: must be {MIN_MTU} to {MAX_MTU}")
    return mtu


# --- model -> JSON


def network_json(network: Network) -> Json:
    """A network of the swarm, as a manager knows it, without its containers."""
    spec = network.spec
    if network.segments:
        asked = {pool.subnet: pool for pool in spec.pools}
        config = [
            _pool_json(asked.get(s.subnet) or Pool(s.subnet), s.gateway) for s in network.segments
        ]
    else:
        config = [_pool_json(pool, pool.gateway) for pool in spec.pools]
    vnis = (
        {VNIS: ",".join(str(segment.vni) for segment in network.segments)}
        if network.segments
        else {}
    )
    body = _frame(network.id, network.name, network.meta.created_at, "swarm", spec.driver, config)
    body |= {"Internal": spec.internal, "Attachable": spec.attachable, "Ingress": spec.ingress}
    return body | _tail(spec.options | vnis, spec.labels) | {"Containers": None}


def _pool_json(pool: Pool | Ipv6Pool, gateway: Address | None) -> Json:
    return {"Subnet": str(pool.subnet)} | omit_empty({
        "IPRange": str(pool.ip_range or ""), "Gateway": str(gateway or ""),
        "AuxiliaryAddresses": {name: str(address) for name, address in pool.reserved.items()},
    })  # fmt: skip


def attached_network_json(network: Network) -> Json:
    """A network as a task's `NetworksAttachments` shows it."""
    spec = network.spec
    vnis = ",".join(str(segment.vni) for segment in network.segments)
    ranges = {pool.subnet: str(pool.ip_range) for pool in spec.pools if pool.ip_range is not None}
    config = [
        {"Subnet": str(s.subnet)}
        | omit_empty({"Range": ranges.get(s.subnet)})
        | {"Gateway": str(s.gateway)}
        for s in network.segments
    ]
    return {
        "ID": network.id,
        "Version": {"Index": network.meta.version},
        "CreatedAt": rfc3339(network.meta.created_at),
        "UpdatedAt": rfc3339(network.meta.updated_at),
        "Spec": {
            "Name": network.name,
            "Labels": spec.labels,
            "DriverConfiguration": {"Name": spec.driver},
            "Ingress": spec.ingress,
            "Attachable": spec.attachable,
            "IPAMOptions": {"Driver": {"Name": "default"}},
            "Scope": "swarm",
        },
        "DriverState": {"Name": spec.driver, "Options": {VNIS: vnis}},
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": config},
    }


def local_network_json(network: LocalNetwork) -> Json:
    """A network as this node knows it, without its containers."""
    six = network.ipv6_pool
    config: list[Json] = [
        _pool_json(
            Pool(subnet, None, network.ip_range, dict(network.reserved)),
            IPv4Address(gateway) if gateway else None,
        )
        for subnet, gateway in network.pools
    ]
    config += [_pool_json(six, six.gateway)] if six is not None else []
    body = _frame(
        network.id, network.name, network.created_at, network.scope, network.driver, config
    )
    body |= {
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": network.ingress,
        "EnableIPv6": six is not None,
    }
    return body | _tail(dict(network.options), dict(network.labels))


def residents_json(network: LocalNetwork, verbose: bool) -> Json:
    """This node's containers on the network and, for an overlay, the hosts that it spans; with
    `verbose` also the services on it."""
    body: Json = {
        "Containers": {endpoint.key: endpoint_json(endpoint) for endpoint in network.endpoints}
    }
    if network.peers:
        body["Peers"] = [{"Name": peer.name, "IP": peer.address} for peer in network.peers]
    if verbose and network.scope == "swarm":
        body["Services"] = {
            service.name: _service_view_json(service) for service in network.services
        }
    return body


def endpoint_json(endpoint: LocalEndpoint) -> Json:
    return {
        "Name": endpoint.name,
        "EndpointID": endpoint.endpoint_id,
        "MacAddress": endpoint.mac or mac_for(endpoint.address.ip),
        "IPv4Address": str(endpoint.address),
        "IPv6Address": str(endpoint.ipv6_address or ""),
    }


def _service_view_json(service: ServiceView) -> Json:
    tasks = [
        {
            "Name": task.name,
            "EndpointID": task.endpoint_id,
            "EndpointIP": task.address,
            "Info": {"Host IP": task.host},
        }
        for task in service.tasks
    ]
    return {
        "VIP": service.virtual_address,
        "Ports": list(service.ports),
        "LocalLBIndex": 0,
        "Tasks": tasks,
    }


def _frame(
    id: str, name: str, created: int, scope: str, driver: str, config: Sequence[Json]
) -> Json:
    return {
        "Name": name,
        "Id": id,
        "Created": rfc3339(created),
        "Scope": scope,
        "Driver": driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": config},
    }


def _tail(options: dict[str, str], labels: dict[str, str]) -> Json:
    return {
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": options,
        "Labels": labels,
    }
