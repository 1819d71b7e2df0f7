"""Addresses that a user chose for a service and its tasks, by the labels `weft.address.NETWORK` and
`weft.task-addresses.NETWORK`: whether the service can have them.

Only an address that is free, or will be soon, is granted: then it is kept for the service
(`model/usage.py`), and the allocator gives it to nobody else. A task that is about to end still
holds its address; the allocator waits for it. `docker stack rm` and `deploy` in a row need that,
and so does each restart.

    labels -> chosen -> check -> ServiceSpec.addresses
"""

from collections.abc import Iterator
from ipaddress import IPv4Address

import msgspec

from weft.control.allocator.addresses import unusable
from weft.control.scheduler.start_order import STACK
from weft.errors import InvalidArgument
from weft.model import labels
from weft.model.ids import NetworkId
from weft.model.network import Network
from weft.model.service import FixedAddresses, Service, ServiceSpec
from weft.model.state import ClusterState
from weft.model.task import Task


class _Choice(msgspec.Struct, frozen=True):
    """What one label says."""

    label: str
    value: str
    network: Network
    addresses: tuple[IPv4Address, ...]

    @property
    def is_of_tasks(self) -> bool:
        return self.label.startswith(labels.TASK_ADDRESSES)

    def refused(self, cause: str) -> InvalidArgument:
        return labels.refusal(self.label, self.value, cause)


def with_addresses(state: ClusterState, service: Service | None, spec: ServiceSpec) -> ServiceSpec:
    """The specification with the addresses that its labels ask for. `service`: None for a service
    to be created. Raises `InvalidArgument`."""
    choices = list(_choices(state, spec))
    fixed: dict[NetworkId, FixedAddresses] = {}
    for choice in choices:
        _check_service(choice, spec)
        id, chosen = choice.network.id, choice.addresses
        old = fixed.get(id, FixedAddresses(network=id))
        new = {"tasks": chosen} if choice.is_of_tasks else {"virtual": chosen[0]}
        fixed[id] = msgspec.structs.replace(old, **new)
    spec = msgspec.structs.replace(spec, addresses=tuple(fixed.values()))
    for choice in choices:
        _check_addresses(state, service, spec, choice)
    return spec


def _choices(state: ClusterState, spec: ServiceSpec) -> Iterator[_Choice]:
    networks = _named(state, spec)
    for label in sorted(filter(labels.network_of, spec.labels)):
        value, name = spec.labels[label], labels.network_of(label)
        addresses = labels.addresses(spec.labels, label)
        if spec.task.host_network:
            raise labels.refusal(
                label, value, "a service on the network host has no addresses of its own"
            )
        if name not in networks:
            known = f"only on {', '.join(sorted(networks))}" if networks else "on no network"
            raise labels.refusal(label, value, f"the service is not on a network {name}, {known}")
        yield _Choice(label, value, networks[name], addresses)


def _named(state: ClusterState, spec: ServiceSpec) -> dict[str, Network]:
    """The service's networks by the names that labels may use. Within a stack a name means the
    stack's own network, if there is one."""
    attached = (state.networks.get(each.target) for each in spec.task.networks)
    networks = {network.name: network for network in attached if network is not None}
    stack = spec.labels.get(STACK, "")
    own = f"{stack}_"
    short = {n.removeprefix(own): it for n, it in networks.items() if stack and n.startswith(own)}
    return networks | short


def _check_service(choice: _Choice, spec: ServiceSpec) -> None:
    """Whether such a service can have such addresses at all."""
    if not choice.is_of_tasks:
        if spec.endpoint.mode == "dnsrr":
            raise choice.refused(
                "a service of endpoint mode dnsrr has no virtual address: use endpoint mode vip"
            )
        return
    if spec.mode != "replicated":
        raise choice.refused(
            f"the tasks of a service of mode {spec.mode} cannot have addresses of their own: use"
            " mode replicated"
        )
    replicas = spec.replicas or 0
    if len(choice.addresses) < replicas:
        count = len(choice.addresses)
        raise choice.refused(f"{count} addresses are not enough for {replicas} replicas")
    for name, config in (("update", spec.update), ("rollback", spec.rollback)):
        if config.order == "start-first":
            raise choice.refused(
                f"the {name} order start-first needs two addresses for a slot at a time: use"
                " stop-first"
            )


def _check_addresses(
    state: ClusterState, service: Service | None, spec: ServiceSpec, choice: _Choice
) -> None:
    network = choice.network
    fixed = next(f for f in spec.addresses if f.network == network.id)
    if choice.is_of_tasks and fixed.virtual in fixed.tasks:
        raise choice.refused(f"{fixed.virtual} is the service's virtual address on {network.name}")
    holders = _holders(state, service, spec, choice)
    for slot, address in enumerate(choice.addresses, 1):
        cause = unusable(network, address)
        if cause:
            raise choice.refused(f"{address} {cause}")
        owner, of_slot = holders.get(address, ("", 0))
        if owner and (not choice.is_of_tasks or slot != of_slot):
            raise choice.refused(f"{owner} has {address} on network {network.name}")


_Holders = dict[IPv4Address, tuple[str, int]]
"""By address: the holder in words, and the slot if it is a task of the service itself."""


def _holders(
    state: ClusterState, service: Service | None, spec: ServiceSpec, choice: _Choice
) -> _Holders:
    """The holders of addresses that are held or kept and not about to become free."""
    id, own = choice.network.id, service.id if service else None
    usage, found = state.usage, _Holders()
    taken = [
        a for a in choice.addresses if int(a) in usage.addresses(id) or int(a) in usage.fixed(id)
    ]
    if not taken:
        return found
    for node in state.nodes_attached(id).values():
        held = next(a.address.ip for a in node.attachments if a.network == id)
        found[held] = (f"the load balancer of node {node.description.hostname or node.id}", 0)
    for other in state.services.values():
        if other.id != own:
            found |= dict.fromkeys(_of_service(other, id), (f"service {other.name}", 0))
    if service is not None and choice.is_of_tasks and id not in spec.virtual_addresses:
        held_here = (a.address.ip for a in service.endpoint.addresses if a.network == id)
        found |= dict.fromkeys(held_here, ("the service itself, as its virtual address,", 0))
    for task in state.tasks_attached(id).values():
        if task.is_live and state.is_wanted(task):
            held = next(a.address.ip for a in task.attachments if a.network == id)
            found[held] = (_name(task), task.slot if task.service == own else 0)
    return found


def _name(task: Task) -> str:
    if task.attached is not None:
        return f"container {task.name}"
    return f"task {task.service_name}.{task.number or task.node}"


def _of_service(service: Service, network: NetworkId) -> Iterator[IPv4Address]:
    yield from (a.address.ip for a in service.endpoint.addresses if a.network == network)
    for fixed in service.kept_addresses:
        if fixed.network == network:
            yield from fixed.tasks
            if fixed.virtual is not None:
                yield fixed.virtual
