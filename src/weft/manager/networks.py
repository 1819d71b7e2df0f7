"""Networks of the swarm as users ask for them: created once the allocator has served them, removed once nothing needs them.

The decisions are functions from the state to changes; `create` alone waits, for the allocator's answer.
"""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import NoReturn

from weft.control.allocator import routes
from weft.control.allocator.subnets import overlapping
from weft.control.requests.validation import validate_network
from weft.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, Unavailable, WeftError
from weft.manager.transaction import transact
from weft.model.ids import NetworkId
from weft.model.network import Network, NetworkSpec
from weft.model.service import Service
from weft.model.state import Change, ClusterState, Kind, Put, Remove
from weft.store.base import Store, Subscription

KINDS_AWAITED: tuple[Kind, ...] = ("network",)
ALLOCATION_TIMEOUT = 20.0
"""Seconds; the original's time for a request to the cluster."""


async def create(store: Store, id: NetworkId, spec: NetworkSpec) -> Network:
    """See `api.backend.Swarm.create_network`."""
    subscription = store.subscribe(KINDS_AWAITED)
    try:
        await transact(store, lambda state: creation(state, id, spec))
        async with asyncio.timeout(ALLOCATION_TIMEOUT):
            return await _allocated(store, id, subscription)
    except TimeoutError:
        await _take_back(
            store, id, f"cannot create network {spec.name}: the allocator did not answer in {ALLOCATION_TIMEOUT:g} s"
        )
    finally:
        subscription.close()


async def _allocated(store: Store, id: NetworkId, subscription: Subscription) -> Network:
    while True:
        network = store.state.networks.get(id)
        if network is None:
            raise NotFound(f"network {id} not found: it was removed before it was complete")
        if network.segments:
            return network
        if network.error:
            await _take_back(store, id, network.error)
        await subscription.next()


async def _take_back(store: Store, id: NetworkId, cause: str) -> NoReturn:
    def removal(state: ClusterState) -> list[Change]:
        network = state.networks.get(id)
        return [Remove("network", id, network.meta.version)] if network else []

    try:
        await transact(store, removal)
    except WeftError as error:
        raise Unavailable(f"{cause}; nor can it be taken back: {error}") from error
    raise Conflict(cause)


def warnings(state: ClusterState, network: Network, own_routes: Sequence[IPv4Network]) -> list[str]:
    """See `api.backend.Swarm.network_warnings`. `own_routes`: of this host."""
    return list(routes.hidden(state, network.segments, own_routes))


def creation(state: ClusterState, id: NetworkId, spec: NetworkSpec) -> list[Change]:
    _validate(spec)
    if state.named("network", spec.name) is not None:
        raise Conflict(f"network with name {spec.name} already exists")
    if spec.ingress and state.ingress is not None:
        raise Conflict(f"ingress network ({state.ingress.id}) is already present")
    cause = overlapping(state, [pool.subnet for pool in spec.pools], spec.name)
    if cause is not None:
        raise Conflict(cause)
    return [Put(Network(id=id, spec=spec))]


def _validate(spec: NetworkSpec) -> None:
    validate_network(spec)
    if spec.driver != "overlay":
        raise InvalidArgument(f"cannot create network {spec.name}: driver {spec.driver} has no swarm scope")


def removal(state: ClusterState, id: NetworkId) -> list[Change]:
    """A task of a service that is gone is not in the way: it is about to be told to stop, and whoever removes a stack removes its
    networks with the same breath."""
    network = state.networks.get(id)
    if network is None:
        raise NotFound(f"network {id} not found")
    for service in state.services.values():
        if network.spec.ingress and needs_ingress(service):
            raise FailedPrecondition(f"ingress network cannot be removed because service {service.id} depends on it")
        if any(attached.target == id for attached in service.spec.task.networks):
            raise FailedPrecondition(f"network {id} is in use by service {service.id}")
    for task in state.tasks_attached(id).values():
        if task.is_live and task.service in state.services:
            raise FailedPrecondition(f"network {id} is in use by task {task.id}")
    return [Remove("network", id, network.meta.version)]


def needs_ingress(service: Service) -> bool:
    return any(port.mode == "ingress" for port in service.spec.endpoint.ports)
