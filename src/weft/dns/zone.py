"""The names that one container may ask for, made from the manager's description of the container's
networks.

On each network a task has its own name and its aliases (short id of the container, hostname).
`tasks.<service>` and `tasks.<alias>` give the addresses of the serving tasks and, on a network that
asks for it, of those that are starting. `<service>` and its aliases give the virtual address, or
the addresses of the serving tasks if there is no virtual address. A service's names exist as long
as the service is known on the network, with or without tasks. A name is looked up in the
container's networks in the order of its attachments; the first network that knows the name answers.
`<name>.<network>` is looked up in that network only.

The ingress network has no names, as in Docker Swarm (libnetwork, "routing only"): containers cannot
reach each other there, and a name of another stack would hide a name of the outside world.

A `NetworkNames` is the same for all containers of a network: make it once per `NetworkView`.
"""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address

import msgspec

from weft.model.addresses import AnyAddress
from weft.model.assignment import EndpointRecord, NetworkView, Overlays
from weft.model.ids import NetworkId
from weft.model.numbers import decimal
from weft.model.workload import Workload

Addresses = tuple[IPv4Address, ...]
MAX_NDOTS = 15
"""resolv.conf(5): a larger number counts as this one."""


class NetworkNames(msgspec.Struct, frozen=True, kw_only=True):
    """The names of one network, in lower case."""

    network: str
    """The network's name."""
    internal: bool
    addresses: Mapping[str, Addresses]
    """An empty tuple: the name exists, but no task serves it."""
    pointers: Mapping[AnyAddress, str]
    """The task's name, by address."""
    ipv6_addresses: Mapping[str, tuple[IPv6Address, ...]] = {}
    """Of names that are in `addresses` too."""

    @classmethod
    def of(cls, view: NetworkView) -> "NetworkNames":
        definition = view.definition
        tasks = [e for e in view.endpoints.values() if e.task is not None]
        return cls(
            network=definition.name.lower(),
            internal=definition.internal,
            addresses=_task_names(tasks) | _service_names(view, tasks),
            pointers={e.address.ip: e.name for e in tasks if e.name},
        )


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """The names that one container sees."""

    networks: tuple[NetworkNames, ...]
    """In the order in which they are searched."""
    forwards: bool = True
    """False for a container on internal networks only: it must not reach the outside, not even
    through the host's name servers. Name servers that the user named are asked from the container's
    namespace."""
    ndots: int = 0
    """As the user set it; without a setting, the resolver in the container has 0."""

    def addresses(self, name: str) -> Addresses | None:
        """None if no network here knows the name."""
        name = name.lower()
        for network in self.networks:
            found = network.addresses.get(name)
            if found is not None:
                return found
        for network in self.networks:
            found = network.addresses.get(name.removesuffix(f".{network.network}"))
            if found is not None:
                return found
        return None

    def ipv6_addresses(self, name: str) -> tuple[IPv6Address, ...]:
        """Those of the first network that has any for the name."""
        name = name.lower()
        own = (network.ipv6_addresses.get(name) for network in self.networks)
        full = (
            network.ipv6_addresses.get(name.removesuffix(f".{network.network}"))
            for network in self.networks
        )
        return next(filter(None, (*own, *full)), ())

    def pointer(self, address: AnyAddress) -> str | None:
        """`<name>.<network>` of the task that has the address."""
        for network in self.networks:
            name = network.pointers.get(address)
            if name is not None:
                return f"{name}.{network.network}"
        return None


def zone_for(
    overlays: Overlays,
    workload: Workload | None,
    names_of: Callable[[NetworkView], NetworkNames] = NetworkNames.of,
) -> Zone:
    """The zone of a workload's container; an empty zone without a workload. `names_of` may be a
    cache of `NetworkNames.of`."""
    if workload is None:
        return Zone(networks=(), forwards=False)
    spec = workload.spec
    views = [
        overlays.networks[a.network] for a in workload.attachments if a.network in overlays.networks
    ]
    outward = not views or any(not view.definition.internal for view in views)
    names = tuple(names_of(view) for view in views if not view.definition.ingress)
    return Zone(
        networks=names, forwards=outward or bool(spec.dns_servers), ndots=ndots(spec.dns_options)
    )


class NameCache:
    """`NetworkNames.of`, computed once for each view. Views are compared by identity: a new
    assignment keeps the objects of unchanged views."""

    def __init__(self) -> None:
        self._cache: dict[NetworkId, tuple[NetworkView, NetworkNames]] = {}

    def __call__(self, view: NetworkView) -> NetworkNames:
        cached = self._cache.get(view.definition.id)
        if cached is None or cached[0] is not view:
            cached = (view, NetworkNames.of(view))
            self._cache[view.definition.id] = cached
        return cached[1]


def _task_names(tasks: list[EndpointRecord]) -> dict[str, Addresses]:
    names: dict[str, Addresses] = {}
    for endpoint in tasks:
        for name in {endpoint.name.lower(), *(alias.lower() for alias in endpoint.aliases)} - {""}:
            names[name] = (*names.get(name, ()), endpoint.address.ip)
    return names


def _service_names(view: NetworkView, tasks: list[EndpointRecord]) -> dict[str, Addresses]:
    serving: dict[str, list[IPv4Address]] = {}
    starting: dict[str, list[IPv4Address]] = {}
    for endpoint in tasks:
        if endpoint.service is not None and (endpoint.serving or endpoint.starting):
            found = serving if endpoint.serving else starting
            found.setdefault(endpoint.service, []).append(endpoint.address.ip)
    names: dict[str, Addresses] = {}
    for service in view.services.values():
        backends = tuple(sorted(serving.get(service.id, ())))
        shown = backends if service.virtual_address is None else (service.virtual_address,)
        there = tuple(sorted((*backends, *starting.get(service.id, ()))))
        for name in {service.name.lower(), *(alias.lower() for alias in service.aliases)}:
            # An alias may belong to several services: it gives the addresses of all of them.
            names[name] = (*names.get(name, ()), *shown)
            names[f"tasks.{name}"] = (*names.get(f"tasks.{name}", ()), *there)
    return names


def ndots(options: tuple[str, ...]) -> int:
    """The number that a container's options for its resolver say; 0 if they say none."""
    for option in options:
        key, _, value = option.partition(":")
        if key == "ndots" and (dots := decimal(value)) is not None:
            return min(dots, MAX_NDOTS)
    return 0
